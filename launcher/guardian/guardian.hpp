#pragma once

#include "base/unique_fd.hpp"
#include "launcher/identity.hpp"
#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::guardian {

/// Shuts down a guest whose supervisor died, over a second descriptor of QEMU's monitor. Runs in a
/// process forked for it alone, takes on `credentials`, dies with `parent`, and does not return.
using Rescuer = void (*)(base::UniqueFd qmp,
                         const plan::Deadlines& deadlines,
                         const sandbox::Credentials& credentials,
                         pid_t parent);

/// The verb of a program that is a guardian and nothing else; its argument is an encoded identity,
/// its standard input the control socket.
constexpr const char* kVerb = "guardian";

/// The guardian's whole life, in a process of its own: obeys the supervisor at the other end of
/// `control`, and ends QEMU and undoes everything when the supervisor is gone. Returns the exit
/// status of its process. The caller must have one thread and no asio state.
[[nodiscard]] int run(base::UniqueFd control, const Identity& identity, Rescuer rescuer);

}  // namespace vmlaunch::launcher::guardian
