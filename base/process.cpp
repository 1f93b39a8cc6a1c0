#include "base/process.hpp"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <ctime>

#include "base/errors.hpp"
#include "base/file.hpp"

namespace vmlaunch::base {

std::string to_string(const ExitStatus& status) {
  return status.signal != 0 ? signal_name(status.signal)
                            : "exit code " + std::to_string(status.code);
}

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name != nullptr ? "SIG" + std::string(name) : "signal " + std::to_string(signal);
}

bool send_signal(int pidfd, int signal) {
  if (::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0) {
    return true;
  }
  if (errno == ESRCH) {
    return false;
  }
  throw_errno("send " + signal_name(signal));
}

std::optional<ExitStatus> try_reap(int pidfd) {
  siginfo_t info{};
  int result = -1;
  do {
    result = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG);
  } while (result < 0 && errno == EINTR);
  check(result, "wait for a child process");
  if (info.si_pid == 0) {
    return std::nullopt;
  }
  if (info.si_code == CLD_EXITED) {
    return ExitStatus{info.si_status, 0};
  }
  return ExitStatus{0, info.si_status};
}

std::optional<ExitStatus> reap_within(int pidfd, std::chrono::milliseconds limit) {
  return reap_until(pidfd, std::chrono::steady_clock::now() + limit);
}

std::optional<ExitStatus> reap_until(int pidfd, std::chrono::steady_clock::time_point deadline) {
  constexpr timespec kPause{0, 1'000'000};
  for (;;) {
    const bool ended = wait_readable(pidfd, deadline);
    std::optional<ExitStatus> status = try_reap(pidfd);
    if (status || !ended || std::chrono::steady_clock::now() > deadline) {
      return status;
    }
    // A tracer hears of a child's end before its parent may reap it, when its pidfd can be read.
    ::nanosleep(&kPause, nullptr);
  }
}

bool wait_any(std::span<pollfd> waited, std::chrono::steady_clock::time_point deadline) {
  for (;;) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    const auto timeout = std::clamp<std::int64_t>(left.count(), 0, INT32_MAX);
    const int ready = ::poll(waited.data(), waited.size(), static_cast<int>(timeout));
    if (ready >= 0) {
      return ready > 0;
    }
    if (errno != EINTR) {
      throw_errno("wait for a descriptor");
    }
  }
}

bool wait_readable(int fd, std::chrono::steady_clock::time_point deadline) {
  pollfd waited{fd, POLLIN, 0};
  return wait_any({&waited, 1}, deadline);
}

Child fork_child(const std::string& what, std::optional<int> cgroup) {
  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  if (cgroup) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<__u64>(*cgroup);
  }
  const auto pid = static_cast<pid_t>(
      check(::syscall(SYS_clone3, &arguments, sizeof arguments), "start " + what));
  return pid == 0 ? Child{0, UniqueFd()} : Child{pid, UniqueFd(pidfd)};
}

void close_all_but(std::vector<int> kept) {
  const UniqueFd null = open_file("/dev/null", O_RDWR);
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    check(::dup2(null.get(), stream), "leave the standard streams");
  }
  std::sort(kept.begin(), kept.end());
  unsigned next = STDERR_FILENO + 1;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(fd);
    if (number > next) {
      check(::syscall(SYS_close_range, next, number - 1, 0U), "close what is not needed");
    }
    next = std::max(next, number + 1);
  }
  check(::syscall(SYS_close_range, next, ~0U, 0U), "close what is not needed");
}

}  // namespace vmlaunch::base
