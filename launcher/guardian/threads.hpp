#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "launcher/plan/placement.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::guardian {

/// QEMU's threads on the CPUs of a placement, scheduled by it.
class Threads {
 public:
  /// `group` is the cgroup of the vCPUs' own, "" for none.
  Threads(steps::Host& host, plan::Placement placement, std::string group)
      : host_(host), placement_(std::move(placement)), group_(std::move(group)) {}

  /// Puts the vCPUs, all other threads and those that the kernel has for QEMU on their CPUs, and
  /// schedules the vCPUs by the placement's policy, or like all others. `vcpus` are their threads'
  /// numbers as QEMU told them: each must be one of `qemu`, which must not have been reaped. May be
  /// called again, with the same ones: QEMU cannot have others made real-time in their turn. Throws
  /// Failure (qemu_did_not_start) for numbers that are not so, and for what the kernel refuses or
  /// does otherwise, with the cause.
  void place(pid_t qemu, const std::vector<pid_t>& vcpus, bool realtime);

  /// The vCPUs are scheduled like all others from now on, as far as they are still there.
  void calm(pid_t qemu) const;

 private:
  void place_vcpus(pid_t qemu, bool realtime) const;
  void place_others(pid_t qemu) const;

  steps::Host& host_;
  plan::Placement placement_;
  std::string group_;
  std::vector<pid_t> vcpus_;  ///< once they are known
};

}  // namespace vmlaunch::launcher::guardian
