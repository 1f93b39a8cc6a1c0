#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/packet.hpp"
#include "base/process.hpp"
#include "launcher/guardian/protocol.hpp"
#include "launcher/identity.hpp"

namespace vmlaunch::launcher::run {

/// The guardian as a process of ours.
class GuardianProcess {
 public:
  /// Forks. Must come before any asio object, any file of the user's and any change of uid. Does
  /// not return in the child.
  explicit GuardianProcess(const Identity& identity);
  GuardianProcess(GuardianProcess&&) = default;
  GuardianProcess& operator=(GuardianProcess&&) = delete;
  GuardianProcess(const GuardianProcess&) = delete;
  GuardianProcess& operator=(const GuardianProcess&) = delete;
  /// Without its socket the guardian undoes what there is and ends.
  ~GuardianProcess();

  [[nodiscard]] base::UniqueFd take_control() { return std::move(control_); }

  /// Waits for its end and reaps it; false when it does not end in time.
  [[nodiscard]] bool reap();

 private:
  base::UniqueFd control_;
  base::Child child_;
};

/// The supervisor's end of the connection: one request at a time, and news in between.
class GuardianLink {
 public:
  /// `on_change` is called when QEMU ended or the guardian is gone.
  GuardianLink(boost::asio::io_context& io,
               base::UniqueFd control,
               std::function<void()> on_change);

  struct Answer {
    guardian::Reply reply;
    std::vector<base::UniqueFd> fds;
  };

  /// Throws Failure with the guardian's own code and words when it refuses, `stuck` when it does
  /// not answer in time, `host_not_restored` when it is gone.
  boost::asio::awaitable<Answer> ask(guardian::Request request,
                                     std::vector<int> fds,
                                     std::chrono::milliseconds deadline);

  /// Asks without waiting for the answer, which is dropped.
  void tell(const guardian::Request& request);

  [[nodiscard]] bool gone() const { return gone_; }
  [[nodiscard]] const std::optional<base::ExitStatus>& qemu_exit() const { return qemu_exit_; }

 private:
  boost::asio::awaitable<void> read();
  void take(base::Packet packet);
  bool receive();
  void send(const guardian::Request& request, const std::vector<int>& fds);

  boost::asio::posix::stream_descriptor control_;
  boost::asio::steady_timer answered_;
  std::function<void()> on_change_;
  std::deque<Answer> answers_;
  std::deque<bool> outstanding_;  ///< requests in order: whether somebody waits for the answer
  std::optional<base::ExitStatus> qemu_exit_;
  bool gone_ = false;
};

}  // namespace vmlaunch::launcher::run
