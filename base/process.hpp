#pragma once

#include <poll.h>
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"

namespace vmlaunch::base {

/// How a process ended: by exit(code), or by a signal (then code is unused).
struct ExitStatus {
  int code = 0;
  int signal = 0;

  bool operator==(const ExitStatus&) const = default;
};

/// "exit code 1" or "SIGKILL".
[[nodiscard]] std::string to_string(const ExitStatus& status);

/// "SIGTERM" for 15.
[[nodiscard]] std::string signal_name(int signal);

/// A child known by its pidfd, so that its number cannot come to mean another process.
struct Child {
  pid_t pid = -1;
  UniqueFd pidfd;
};

/// Sends a signal by pidfd; false when the process has ended already.
bool send_signal(int pidfd, int signal);

/// Reaps a child of this process if it has ended; nothing while it runs.
[[nodiscard]] std::optional<ExitStatus> try_reap(int pidfd);

/// Reaps a child of this process, waiting at most `limit`; nothing when it still runs then.
[[nodiscard]] std::optional<ExitStatus> reap_within(int pidfd, std::chrono::milliseconds limit);

/// The same until a point in time.
[[nodiscard]] std::optional<ExitStatus> reap_until(int pidfd,
                                                   std::chrono::steady_clock::time_point deadline);

/// poll(2) until one of them is ready; false at the deadline. A descriptor of -1 never is.
bool wait_any(std::span<pollfd> waited, std::chrono::steady_clock::time_point deadline);

/// Waits until `fd` can be read (a pidfd: its process ended); false at the deadline.
[[nodiscard]] bool wait_readable(int fd, std::chrono::steady_clock::time_point deadline);

/// fork(2) with a pidfd for the parent. In the child the pid is 0 and the pidfd empty. `cgroup`: an
/// open cgroup2 folder in which the child is born.
[[nodiscard]] Child fork_child(const std::string& what, std::optional<int> cgroup = std::nullopt);

/// For a child that may outlive its parent: nothing stays open but `kept`, which would keep locks,
/// sockets and files alive, and the standard streams lead nowhere. Throws.
void close_all_but(std::vector<int> kept);

}  // namespace vmlaunch::base
