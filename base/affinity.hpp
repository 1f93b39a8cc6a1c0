#pragma once

#include <sys/types.h>

#include "base/cpu_set.hpp"

namespace vmlaunch::base {

/// The CPUs that a thread may run on; 0 is the caller. None when it is gone.
[[nodiscard]] CpuSet affinity_of(pid_t thread);

/// Lets a thread run on these CPUs alone, as far as its cpuset allows. 0, or errno.
[[nodiscard]] int set_affinity(pid_t thread, const CpuSet& cpus);

}  // namespace vmlaunch::base
