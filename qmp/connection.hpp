#pragma once

// Internal to the library: users include qmp/client.hpp.

#include <array>
#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/unique_fd.hpp"
#include "qmp/errors.hpp"
#include "qmp/event_queue.hpp"
#include "qmp/framer.hpp"
#include "qmp/log.hpp"
#include "qmp/session.hpp"

namespace vmlaunch::qmp {

using Clock = std::chrono::steady_clock;

/// A call that waits. Its one timer is the deadline and, by being cancelled, the wake-up.
struct Waiter {
  Waiter(const boost::asio::any_io_executor& executor, std::chrono::milliseconds limit);

  void wake();

  boost::asio::steady_timer timer;
  std::chrono::milliseconds deadline;
  bool settled = false;
  bool begun = false;                        // its first byte was sent
  std::optional<Clock::time_point> written;  // its last one
  std::variant<std::monostate, Json, CommandError, CloseReason> outcome;
};

/// The state that a client shares with the coroutines that read, write and wait. Each of them holds
/// it by a shared_ptr in its own frame, so it lives until the last of them has ended or the
/// io_context is gone, whenever the client is destroyed.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::io_context& context, base::UniqueFd socket, Start start);

  [[nodiscard]] boost::asio::any_io_executor executor() { return socket_.get_executor(); }
  [[nodiscard]] const Session& session() const { return session_; }

  /// Starts to read. The waiter is settled when the greeting is there or handshake_result() is
  /// known.
  [[nodiscard]] Waiter& begin_handshake(std::chrono::milliseconds limit);
  /// Then the same one, settled when handshake_result() is known.
  [[nodiscard]] Waiter& await_capabilities(std::chrono::milliseconds limit);
  void fail_handshake(HandshakeError::Cause cause, const std::string& text);
  [[nodiscard]] Greeting handshake_result() const;

  /// Sends a command whose end settles `waiter`, unless it is detached before.
  [[nodiscard]] Id submit(const std::string& command,
                          const Json& arguments,
                          Band band,
                          std::vector<base::UniqueFd> fds,
                          Waiter& waiter);
  /// The waiter is gone. What was begun to be sent is sent to its end all the same.
  void detach(Id id);

  void close(const CloseReason& cause);

  /// How long QEMU's main loop has been at the command that it is at now.
  [[nodiscard]] std::chrono::milliseconds busy() const;

  [[nodiscard]] std::shared_ptr<EventQueue> subscribe(EventFilter filter, std::size_t capacity);

  std::function<void(const Event&)> event_handler;
  std::function<void(const CloseReason&)> close_handler;
  Log log;

 private:
  using Socket = boost::asio::local::stream_protocol::socket;

  struct Outgoing {
    std::optional<Id> id;  // none: qmp_capabilities
    std::string bytes;
    std::vector<base::UniqueFd> fds = {};
    std::size_t sent = 0;
  };

  static boost::asio::awaitable<void> read(std::shared_ptr<Connection> self);
  static boost::asio::awaitable<void> write(std::shared_ptr<Connection> self);
  void spawn(boost::asio::awaitable<void> coroutine);

  void take(std::string_view bytes);
  [[nodiscard]] std::optional<std::string> next_message();
  void dispatch(Message message, std::size_t bytes);
  void greet(Greeting greeting);
  void publish(const Event& event, std::size_t bytes);
  void settle(Reply reply);
  void end_of_stream(const CloseReason& reason);

  void send(Outgoing command, Band band);
  void send_queued();
  [[nodiscard]] std::deque<Outgoing>* next_to_send();
  [[nodiscard]] ssize_t send_some(const Outgoing& command);
  void note_begun(Outgoing& command);
  void note_progress(std::deque<Outgoing>& queue, std::size_t sent);
  void note_written(std::optional<Id> id);
  void writing_failed(int error);
  void note_work();

  Socket socket_;
  Session session_;
  Framer framer_;
  std::string first_bytes_;
  std::array<char, std::size_t{64} * 1024> read_buffer_{};

  std::deque<Outgoing> urgent_;   // out of band, and qmp_capabilities
  std::deque<Outgoing> ordered_;  // by their turn
  bool writer_runs_ = false;
  std::optional<CloseReason> write_failure_;
  std::optional<Id> work_;  // what the main loop is at
  Clock::time_point work_begun_;

  std::vector<std::weak_ptr<EventQueue>> subscribers_;
  std::unordered_map<Id, Waiter*> waiters_;
  std::optional<Waiter> handshake_;
  std::optional<HandshakeError> handshake_failure_;
  bool opened_ = false;
  bool usable_ = false;
  Greeting greeting_;
};

}  // namespace vmlaunch::qmp
