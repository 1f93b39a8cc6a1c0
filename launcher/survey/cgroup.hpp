#pragma once

#include <optional>
#include <string>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// The cgroup2 folder in which a VM's own cgroup can be made: the root of the tree for root, the
/// caller's own cgroup for a user to whom it is delegated. Nothing where there is no such folder.
[[nodiscard]] std::optional<std::string> find_cgroup_parent(const base::Tree& tree,
                                                            bool privileged);

}  // namespace vmlaunch::launcher::survey
