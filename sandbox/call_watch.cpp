#include "sandbox/call_watch.hpp"

#include <linux/seccomp.h>
#include <poll.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <string_view>
#include <utility>

#include "base/errors.hpp"
#include "base/process.hpp"

namespace vmlaunch::sandbox {

namespace {

/// Linux 6.6 and newer: whoever asks and whoever answers take turns on one CPU, so that neither is
/// woken on another, which costs more than all the rest (include/uapi/linux/seccomp.h).
constexpr unsigned long kSetFlags = _IOW('!', 4, std::uint64_t);
constexpr unsigned long kTakeTurns = 1;

/// A program that was taken over must not fill logs.
constexpr std::size_t kMostTold = 64;

/// What a call is about lies in its number, and for these in an argument too.
bool is_same_kind(const Call& left, const Call& right) {
  if (left.number != right.number) {
    return false;
  }
  const std::string name = call_name(left.number);
  const bool by_request = name == "ioctl" || name == "fcntl";
  const bool by_first = name == "prctl" || name == "socket";
  return (!by_request || left.arguments[1] == right.arguments[1]) &&
         (!by_first || left.arguments[0] == right.arguments[0]);
}

}  // namespace

CallWatch::CallWatch(base::UniqueFd listener, Filter filter, pid_t pid, base::UniqueFd pidfd)
    : listener_(std::move(listener)),
      filter_(std::move(filter)),
      pid_(pid),
      pidfd_(std::move(pidfd)) {
  static_cast<void>(::ioctl(listener_.get(), kSetFlags, kTakeTurns));  // older kernels refuse
}

std::optional<CallWatch::Asked> CallWatch::receive() {
  pollfd waited{listener_.get(), POLLIN, 0};
  static_cast<void>(::poll(&waited, 1, 0));
  if ((waited.revents & POLLIN) == 0) {
    if (waited.revents != 0) {
      listener_.reset();  // nobody is left who could ask
    }
    return std::nullopt;
  }
  seccomp_notif notification{};
  if (::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_RECV, &notification) != 0) {
    // Whoever asked was interrupted meanwhile, or has died.
    if (errno == ENOENT || errno == EINTR) {
      return std::nullopt;
    }
    base::throw_errno("hear of a system call");
  }
  Asked asked{notification.id, static_cast<pid_t>(notification.pid), {notification.data.nr, {}}};
  std::copy(std::begin(notification.data.args),
            std::end(notification.data.args),
            asked.call.arguments.begin());
  return asked;
}

/// The kernel goes on with the call for 0. False when whoever asked no longer waits.
bool CallWatch::respond(const Asked& asked, int error) {
  seccomp_notif_resp response{};
  response.id = asked.id;
  response.error = -error;
  response.flags = error == 0 ? SECCOMP_USER_NOTIF_FLAG_CONTINUE : 0;
  if (::ioctl(listener_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response) == 0) {
    return true;
  }
  if (errno != ENOENT) {
    base::throw_errno("answer a system call");
  }
  return false;
}

bool CallWatch::permits(const Asked& asked, const CallRule* rule) const {
  if (rule == nullptr) {
    return false;
  }
  switch (rule->answer) {
    case Answer::allow:
      return true;
    case Answer::start:
      return std::chrono::steady_clock::now() < start_ends_;
    case Answer::once:
      // The one thread that there is before the program starts has the process's own number.
      return !executed_ && asked.thread == pid_;
    case Answer::refuse:
    case Answer::eperm:
    case Answer::enosys:
    case Answer::kill:
      break;
  }
  return false;
}

std::optional<RefusedCall> CallWatch::serve() {
  const std::optional<Asked> asked = receive();
  if (!asked) {
    return std::nullopt;
  }
  const CallRule* rule = filter_.find(asked->call, pid_);
  if (permits(*asked, rule)) {
    // One that was interrupted meanwhile is made, and asked for, again.
    const bool goes_on = respond(*asked, 0);
    executed_ = executed_ || (goes_on && rule->answer == Answer::once);
    return std::nullopt;
  }
  if (filter_.mode() == Filter::Mode::log) {
    respond(*asked, 0);
    return tell(asked->call, RefusedCall::Outcome::logged);
  }
  return refuse(*asked, rule);
}

std::optional<RefusedCall> CallWatch::refuse(const Asked& asked, const CallRule* rule) {
  const bool is_none = asked.call.number < 0;  // syscall(-1)
  const bool is_eperm = rule != nullptr && rule->answer == Answer::eperm;
  const bool is_enosys = rule != nullptr && rule->answer == Answer::enosys;
  if (is_none || is_eperm || is_enosys) {
    respond(asked, is_eperm ? EPERM : ENOSYS);
    return std::nullopt;
  }
  if (rule == nullptr && filter_.is_newer(asked.call.number)) {
    respond(asked, ENOSYS);
    return tell(asked.call, RefusedCall::Outcome::newer);
  }
  if (rule != nullptr && (rule->answer == Answer::start || rule->answer == Answer::refuse)) {
    respond(asked, EPERM);
    return tell(
        asked.call,
        rule->answer == Answer::start ? RefusedCall::Outcome::late : RefusedCall::Outcome::refused);
  }
  // First, so that it does nothing more.
  static_cast<void>(base::send_signal(pidfd_.get(), SIGKILL));
  respond(asked, EPERM);
  return tell(asked.call, RefusedCall::Outcome::ended);
}

std::optional<RefusedCall> CallWatch::tell(const Call& call, RefusedCall::Outcome outcome) {
  const bool known = std::any_of(
      told_.begin(), told_.end(), [&](const Call& other) { return is_same_kind(other, call); });
  const bool is_end = outcome == RefusedCall::Outcome::ended;
  const bool is_enough = is_end ? ended_ : known || told_.size() >= kMostTold;
  if (is_enough) {
    return std::nullopt;
  }
  ended_ = ended_ || is_end;
  told_.push_back(call);
  return RefusedCall{call, outcome};
}

}  // namespace vmlaunch::sandbox
