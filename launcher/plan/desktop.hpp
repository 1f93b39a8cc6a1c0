#pragma once

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

/// Whether what the config stops on the host can be stopped by this run, and without ending it.
/// Throws Failure (preflight) with the command to type; adds a warning where nobody can tell.
void require_desktop_can_end(const config::VmSpec& spec,
                             const survey::Survey& survey,
                             const Identity& identity,
                             Plan& plan);

/// Adds the steps that take the users of the plan's devices from them: units, the console, the
/// firmware's framebuffer.
void add_desktop_steps(const config::VmSpec& spec, const survey::Survey& survey, Plan& plan);

}  // namespace vmlaunch::launcher::plan
