#pragma once

#include <string>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// What keeps threads from a real-time policy, and what it costs them (sched(7)).
struct RealtimeLimits {
  /// The caller's cgroup, if it has no time for such threads: with CONFIG_RT_GROUP_SCHED each has a
  /// budget of its own (Documentation/scheduler/sched-rt-group.rst). "" for none of the kind.
  std::string cgroup;
  bool throttled = true;  ///< they leave a part of each second to others (sched_rt_runtime_us)
  /// Not that, but others on the same CPU get a part of it if they want to (Linux 6.12,
  /// kernel/sched/fair.c).
  bool fair_server = false;
  unsigned highest = 0;  ///< the priority that a user may give (RLIMIT_RTPRIO)

  bool operator==(const RealtimeLimits&) const = default;
};

constexpr const char* kThrottling = "/proc/sys/kernel/sched_rt_runtime_us";

[[nodiscard]] RealtimeLimits look_at_realtime(const base::Tree& tree);

/// Why the caller may not give that priority; "" for nothing that can be seen from here.
[[nodiscard]] std::string obstacle(const RealtimeLimits& limits,
                                   unsigned priority,
                                   bool privileged);

}  // namespace vmlaunch::launcher::survey
