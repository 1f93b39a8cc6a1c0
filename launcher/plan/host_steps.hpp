#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

/// Adds the changes of the host that the plan's devices need, in their order, and what QEMU needs
/// to use them. Throws Failure (preflight) for what this run has no right to.
void add_host_steps(const config::VmSpec& spec,
                    const survey::Survey& survey,
                    const Identity& identity,
                    Plan& plan);

/// The drivers that devices are taken to.
[[nodiscard]] std::set<std::string> takers_of(const Passthrough& passthrough);

/// Takes each device that is not where it is to be; what fails first comes first.
[[nodiscard]] std::vector<steps::Step> binding_steps(const Passthrough& passthrough);

/// What QEMU must be allowed to lock, for devices that reach the guest's memory; nothing: no more
/// than it may already.
[[nodiscard]] std::optional<base::ByteSize> memlock_of(const config::VmSpec& spec,
                                                       const Passthrough& passthrough);

}  // namespace vmlaunch::launcher::plan
