#pragma once

#include <sys/types.h>

#include "base/unique_fd.hpp"
#include "launcher/plan/plan.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher::run {

/// Shuts a guest down whose supervisor died: takes over the monitor in the middle of whatever was
/// said on it, presses the power button, and after the deadline quits. Runs in a process forked for
/// it alone by `parent`, without rights, and dies with it.
[[noreturn]] void run_rescuer(base::UniqueFd qmp,
                              const plan::Deadlines& deadlines,
                              const sandbox::Credentials& credentials,
                              pid_t parent);

}  // namespace vmlaunch::launcher::run
