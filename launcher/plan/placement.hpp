#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/cpu_set.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/plan/passthrough.hpp"
#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::plan {

/// How the host's tasks are kept off the vCPUs' CPUs.
enum class Exclusive { no, from_boot, by_partition };

/// Where QEMU's threads run, and how they are scheduled.
struct Placement {
  std::vector<base::CpuSet> vcpus;  ///< by the vCPUs' numbers; none: wherever the kernel likes
  base::CpuSet rest;                ///< of all other threads, and of the kernel's for this VM
  config::Policy policy = config::Policy::other;  ///< of the vCPUs
  unsigned priority = 0;                          ///< 0 for other
  // What follows does not travel: it is said, and done by steps.
  bool from_start = true;  ///< else the policy begins once the guest runs
  std::string reason;      ///< for the policy
  std::vector<std::string> picture;
  Exclusive exclusive = Exclusive::no;
  bool alone = false;  ///< nobody else is on the vCPUs' CPUs, not one vCPU on another's
  unsigned dies = 1;   ///< of the guest's socket, each with a last-level cache of the host's
  bool lifts_throttling = false;
  bool interrupts = false;  ///< those of the guest's devices go to its CPUs, once they are there
  std::optional<unsigned> weight;  ///< of the VM's cgroup

  [[nodiscard]] bool pinned() const { return !vcpus.empty(); }
  [[nodiscard]] bool realtime() const { return policy != config::Policy::other; }

  /// The CPUs of all vCPUs.
  [[nodiscard]] base::CpuSet guests() const;

  bool operator==(const Placement&) const = default;
};

/// Adds to `warnings` what is poor about a map of the config's. `privileged`: the run may change
/// the host. Throws Failure (preflight) for CPUs that are not there or too few, and for a policy
/// that cannot be had or would take CPUs from the host.
[[nodiscard]] Placement choose_placement(const config::VmSpec::Cpu& spec,
                                         const survey::Survey& survey,
                                         const Passthrough& passthrough,
                                         bool privileged,
                                         std::vector<std::string>& warnings);

}  // namespace vmlaunch::launcher::plan
