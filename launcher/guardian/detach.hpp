#pragma once

#include "base/unique_fd.hpp"

namespace vmlaunch::launcher::guardian {

/// Takes this process away from the terminal, its signals and its folder, and closes everything
/// that was inherited but standard error and `control`, which is returned. It can no more be
/// traced, and ends only by its own decision or SIGKILL.
[[nodiscard]] base::UniqueFd detach(base::UniqueFd control);

}  // namespace vmlaunch::launcher::guardian
