#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "launcher/plan/placement.hpp"

namespace vmlaunch::launcher::guardian {

/// Puts QEMU's threads, and those that the kernel has for it, on the CPUs of the placement, and
/// schedules its vCPUs: by the placement's policy, or like all others. `vcpus` are their threads'
/// numbers as QEMU told them: each must be one of `qemu`, which must not have been reaped. May be
/// called again. `group` is the cgroup of the vCPUs' own, "" for none. Throws Failure
/// (qemu_did_not_start) for numbers that are not, and for what the kernel refuses or does
/// otherwise, with the cause.
void place_threads(pid_t qemu,
                   const plan::Placement& placement,
                   const std::vector<pid_t>& vcpus,
                   bool realtime,
                   const std::string& group = "");

}  // namespace vmlaunch::launcher::guardian
