#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/file.hpp"
#include "base/packet.hpp"
#include "base/process.hpp"
#include "launcher/guardian/protocol.hpp"
#include "launcher/identity.hpp"

namespace vmlaunch::launcher::run {

/// The guardian as a process of ours.
class GuardianProcess {
 public:
  /// Must come before any asio object, any file of the user's and any change of uid.
  enum class Kind {
    child,   ///< forks; does not return in the child
    keeper,  ///< for a run: a unit of systemd where that can be, else a child
  };
  GuardianProcess(const Identity& identity, Kind kind);
  GuardianProcess(GuardianProcess&&) = default;
  GuardianProcess& operator=(GuardianProcess&&) = delete;
  GuardianProcess(const GuardianProcess&) = delete;
  GuardianProcess& operator=(const GuardianProcess&) = delete;
  /// Without its socket the guardian undoes what there is and ends.
  ~GuardianProcess();

  /// Asks and waits for the answer, as long as the connection has not been taken. Throws Failure:
  /// with the guardian's own code and words when it refuses, `stuck` when it does not answer in
  /// time, `host_not_restored` when it is gone.
  /// `on_wait` hears what the guardian says meanwhile; each word begins the deadline anew.
  guardian::Reply ask(const guardian::Request& request,
                      const std::vector<int>& fds,
                      std::chrono::milliseconds deadline,
                      const std::function<void(const std::string& text)>& on_wait = {});

  /// The first question of a run: lines on what earlier runs have left, and on what this one's
  /// guardian lacks. Throws as `ask`.
  std::vector<std::string> begin(const guardian::Begin& request,
                                 const std::function<void(const std::string& text)>& on_wait = {});

  /// It is a unit of systemd, with cgroups of its own.
  [[nodiscard]] bool is_unit() const { return static_cast<bool>(unit_); }

  [[nodiscard]] base::UniqueFd take_control() { return std::move(control_); }

  /// A pidfd of a guardian whose end the connection does not tell; empty for any other.
  [[nodiscard]] base::UniqueFd process() const {
    return unit_ ? base::duplicate(unit_.get()) : base::UniqueFd();
  }

  /// Waits for its end; false when it does not end in time.
  [[nodiscard]] bool await_end();

 private:
  void send(const guardian::Request& request, const std::vector<int>& fds);
  base::Packet receive(std::chrono::milliseconds deadline);
  void fork(const Identity& identity);
  void start_unit(const Identity& identity);

  base::UniqueFd control_;
  base::UniqueFd child_;   ///< its pidfd; empty for a unit, and after the end
  base::UniqueFd unit_;    ///< its pidfd; empty for a child, and after the end
  std::string complaint_;  ///< why it is a child although systemd is there
};

/// The supervisor's end of the connection: one request at a time, and news in between.
class GuardianLink {
 public:
  /// What is told without having been asked for.
  struct Listener {
    std::function<void()> on_change;                       ///< QEMU ended, or the guardian is gone
    std::function<void(const std::string& text)> on_wait;  ///< a step waits; once for each word
    std::function<void(const guardian::CallRefused& refused)> on_refused_call;
    std::function<void(const std::string& why)> on_refusal;  ///< of what it was told to do
  };

  /// `process` as of GuardianProcess.
  GuardianLink(boost::asio::io_context& io,
               base::UniqueFd control,
               base::UniqueFd process,
               Listener listener);

  struct Answer {
    guardian::Reply reply;
    std::vector<base::UniqueFd> fds;
  };

  /// Throws Failure with the guardian's own code and words when it refuses, `stuck` when nothing
  /// was heard of it for `deadline`, `host_not_restored` when it is gone.
  boost::asio::awaitable<Answer> ask(guardian::Request request,
                                     std::vector<int> fds,
                                     std::chrono::milliseconds deadline);

  /// Asks without waiting for the answer, of which only a refusal is told.
  void tell(const guardian::Request& request);

  [[nodiscard]] bool gone() const { return gone_; }
  [[nodiscard]] const std::optional<base::ExitStatus>& qemu_exit() const { return qemu_exit_; }
  /// Another QEMU is to start.
  void forget_qemu() { qemu_exit_.reset(); }

 private:
  boost::asio::awaitable<void> read();
  void note_end_of_process();
  void note_gone();
  void take(base::Packet packet);
  bool receive();
  void send(const guardian::Request& request, const std::vector<int>& fds);

  boost::asio::posix::stream_descriptor control_;
  boost::asio::posix::stream_descriptor process_;
  boost::asio::steady_timer answered_;
  Listener listener_;
  std::chrono::steady_clock::time_point heard_;  ///< when it was last asked, or said something
  std::string waits_for_;                        ///< the last word of what was asked last
  std::deque<Answer> answers_;
  std::deque<bool> outstanding_;  ///< requests in order: whether somebody waits for the answer
  std::optional<base::ExitStatus> qemu_exit_;
  bool gone_ = false;
};

}  // namespace vmlaunch::launcher::run
