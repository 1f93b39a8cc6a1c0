#pragma once

#include <optional>

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

/// Adds the changes of the host that the plan's devices need, in their order, and what QEMU needs
/// to use them. Throws Failure (preflight) for what this run has no right to.
void add_host_steps(const config::VmSpec& spec,
                    const survey::Survey& survey,
                    const Identity& identity,
                    Plan& plan);

/// What QEMU must be allowed to lock, for devices that reach the guest's memory; nothing: no more
/// than it may already.
[[nodiscard]] std::optional<base::ByteSize> memlock_of(const config::VmSpec& spec,
                                                       const Passthrough& passthrough);

}  // namespace vmlaunch::launcher::plan
