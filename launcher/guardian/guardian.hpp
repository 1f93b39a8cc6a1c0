#pragma once

#include "base/unique_fd.hpp"
#include "launcher/identity.hpp"

namespace vmlaunch::launcher::guardian {

/// The guardian's whole life, in a process of its own: obeys the supervisor at the other end of
/// `control`, and ends QEMU and undoes everything when the supervisor is gone. Returns the exit
/// status of its process. The caller must have one thread and no asio state.
[[nodiscard]] int run(base::UniqueFd control, const Identity& identity);

}  // namespace vmlaunch::launcher::guardian
