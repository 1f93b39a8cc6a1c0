#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/affinity.hpp"

namespace vmlaunch::tests {

/// A thread as the kernel has it.
struct Thread {
  pid_t id = 0;
  std::string name;
  base::CpuSet cpus;  ///< that it may run on
  int policy = 0;     ///< of sched_getscheduler(2), with its flag
  int priority = 0;

  bool operator==(const Thread&) const = default;
};

/// "1234 CPU 0/KVM on 3, SCHED_RR 1 reset-on-fork"
[[nodiscard]] std::string to_string(const Thread& thread);

/// Those of a process, by their numbers.
[[nodiscard]] std::vector<Thread> threads_of(pid_t pid);

/// What each thread of a process is at: its state, the time that it has run (nanoseconds) and has
/// waited for a CPU, and, for root, where in the kernel it is.
[[nodiscard]] std::string whereabouts_of(pid_t pid);

/// The kernel's own threads of which the name ends so.
[[nodiscard]] std::vector<Thread> kernel_threads_of(const std::string& ending);

using base::affinity_of;

}  // namespace vmlaunch::tests
