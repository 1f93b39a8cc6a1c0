#pragma once

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

/// Adds the changes of the host that the plan's devices need, in their order, and what QEMU needs
/// to use them. Throws Failure (preflight) for what this run has no right to.
void add_host_steps(const config::VmSpec& spec,
                    const survey::Survey& survey,
                    const Identity& identity,
                    Plan& plan);

}  // namespace vmlaunch::launcher::plan
