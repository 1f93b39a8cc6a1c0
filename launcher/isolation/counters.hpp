#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/cpu_set.hpp"
#include "base/tree.hpp"

namespace vmlaunch::launcher::isolation {

/// What a thread has had of its processor so far.
struct ThreadTime {
  std::string name;
  pid_t process = 0;
  std::uint64_t started = 0;  ///< since boot; its number may have been another's before
  bool is_kernel = false;
  unsigned cpu = 0;               ///< that it was on last
  std::uint64_t ran_ns = 0;       ///< on a CPU
  std::uint64_t waited_ns = 0;    ///< for one, although it could have run
  std::uint64_t turns = 0;        ///< how often it got one
  std::uint64_t involuntary = 0;  ///< how often somebody took it away

  bool operator==(const ThreadTime&) const = default;
};

/// What a CPU has done so far.
struct CpuTime {
  std::uint64_t busy_ms = 0;    ///< with tasks, interrupts, or for a hypervisor above
  std::uint64_t stolen_ms = 0;  ///< by a hypervisor above this host
  std::uint64_t too_hot = 0;    ///< how often it was slowed down for that
};

/// Counters of the kernel's about CPUs, at one moment. Sources: proc(5); for schedstat
/// Documentation/scheduler/sched-stats.rst.
struct Counters {
  std::chrono::steady_clock::time_point taken;
  std::map<pid_t, ThreadTime> threads;  ///< all of the host's, by number
  /// What interrupted which CPU how often: "24 vfio-msix[0](0000:01:00.0)", "Local timer
  /// interrupts", "softirq RCU".
  std::map<std::string, std::map<unsigned, std::uint64_t>> interrupts;
  std::map<unsigned, CpuTime> times;
  /// By a quota of CPU time, by the cgroup (its folder), with those above them.
  std::map<std::string, std::uint64_t> throttled_us;
};

/// Threads that end meanwhile are left out. `vcpus`: threads whose cgroups are looked at.
[[nodiscard]] Counters count(const base::Tree& tree,
                             const base::CpuSet& cpus,
                             const std::vector<pid_t>& vcpus);

}  // namespace vmlaunch::launcher::isolation
