#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include "base/unique_fd.hpp"
#include "qmp/errors.hpp"
#include "qmp/events.hpp"
#include "qmp/log.hpp"
#include "qmp/session.hpp"

namespace vmlaunch::qmp {

class Connection;

/// What a probe has found.
struct Pulse {
  bool answers = false;               ///< QEMU lives; false also if it read the question too late
  std::chrono::milliseconds busy{0};  ///< how long its main loop has been at one of our commands
};

/// One connection to QEMU's monitor. Everything runs in the one thread of the io_context, which
/// must outlive the client.
///
/// The coroutines and the reader hold what they need by themselves: a client may be destroyed at
/// any time, also from its handlers and while commands are pending. It then calls no handler any
/// more, and the pending calls end as Interrupted.
class Client {
 public:
  /// Takes a connected AF_UNIX stream socket and makes it non-blocking and close-on-exec. Throws
  /// std::system_error.
  Client(boost::asio::io_context& context, base::UniqueFd socket, Start start = Start::greeting);
  ~Client();

  Client(const Client&) = delete;
  Client(Client&&) = delete;
  Client& operator=(const Client&) = delete;
  Client& operator=(Client&&) = delete;

  /// All three are set before the handshake, are called from the event loop and must not throw:
  /// what they throw ends the connection and leaves io_context::run(). Events that precede the
  /// greeting or the end of the handshake are delivered too.
  void on_event(std::function<void(const Event&)> handler);
  /// Called once, after the last event, unless the client is destroyed first.
  void on_close(std::function<void(const CloseReason&)> handler);
  /// Called with each message, as log.hpp shows them to people.
  void log_to(LogSink sink);

  /// Makes the connection usable; called once. Throws HandshakeError, after which the connection is
  /// closed. The greeting comes from a thread of its own as soon as no other client has the
  /// monitor; only the answer that follows it proves that QEMU's main loop runs.
  [[nodiscard]] boost::asio::awaitable<Greeting> handshake(std::chrono::milliseconds for_greeting,
                                                           std::chrono::milliseconds for_answer);
  /// The same with one deadline for each of the two.
  [[nodiscard]] boost::asio::awaitable<Greeting> handshake(std::chrono::milliseconds for_each);

  /// The value that QEMU returned. `arguments` is an object or null. `deadline` starts when the
  /// command was written, and is longer by what the length of a command costs; one that could not
  /// even be written within it is given up and never sent. Throws CommandError, Timeout,
  /// Interrupted, std::logic_error before the handshake has ended, std::invalid_argument for what
  /// no QEMU can read, and boost::system::system_error(operation_aborted) when the caller was
  /// cancelled.
  [[nodiscard]] boost::asio::awaitable<Json> execute(std::string command,
                                                     Json arguments,
                                                     std::chrono::milliseconds deadline);

  /// The same with the deadline that is usual for the command (deadlines.hpp).
  [[nodiscard]] boost::asio::awaitable<Json> execute(std::string command, Json arguments);

  /// The same out of band: QEMU answers while its main loop is busy and other commands wait. Throws
  /// std::invalid_argument unless has_oob().
  [[nodiscard]] boost::asio::awaitable<Json> execute_oob(std::string command,
                                                         Json arguments,
                                                         std::chrono::milliseconds deadline);

  /// The same with descriptors for a command that takes them (getfd, add-fd): QEMU gets copies.
  /// None of them may be one that this process uses in an event loop, since QEMU makes them
  /// blocking.
  [[nodiscard]] boost::asio::awaitable<Json> execute_with_fds(std::string command,
                                                              Json arguments,
                                                              std::vector<base::UniqueFd> fds,
                                                              std::chrono::milliseconds deadline);

  /// Asks QEMU out of band whether it lives, so that a main loop that is blocked can be told from a
  /// QEMU that is dead. A command in order asks by itself shortly before its deadline, past half
  /// of it, and its Timeout tells. Throws Interrupted, and std::invalid_argument unless has_oob().
  [[nodiscard]] boost::asio::awaitable<Pulse> probe(std::chrono::milliseconds limit);

  /// Whether the monitor takes commands out of band; known after the handshake, and never after a
  /// take-over.
  [[nodiscard]] bool has_oob() const;

  /// Events from now on that match, at most `capacity` of them unread. Those before the handshake
  /// are included for who subscribes before it.
  [[nodiscard]] Subscription subscribe(EventFilter filter, std::size_t capacity = 256);

  /// Closes at once; what was received but not yet handled is lost. The second call does nothing.
  void close();

  [[nodiscard]] const Session::Counters& counters() const;

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace vmlaunch::qmp
