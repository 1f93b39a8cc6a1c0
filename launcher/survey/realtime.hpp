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
  unsigned highest = 0;   ///< the priority that a user may give (RLIMIT_RTPRIO)

  bool operator==(const RealtimeLimits&) const = default;
};

constexpr const char* kThrottling = "/proc/sys/kernel/sched_rt_runtime_us";

[[nodiscard]] RealtimeLimits look_at_realtime(const base::Tree& tree);

}  // namespace vmlaunch::launcher::survey
