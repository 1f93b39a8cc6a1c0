#pragma once

#include <optional>
#include <string>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// Whether systemd is the first process (sd_booted(3)), which has the tree of cgroups then.
[[nodiscard]] bool has_systemd(const base::Tree& tree);

/// The caller's own cgroup as a path in the tree: "" is its root. systemd's where it has a tree of
/// its own (cgroup v1).
[[nodiscard]] std::string own_cgroup(const base::Tree& tree);

/// The cgroup2 folder in which a VM's own cgroup can be made: the caller's own cgroup for a user to
/// whom it is delegated; for root the root of the tree, but where systemd keeps the tree, only the
/// caller's own cgroup, and only if systemd says that it delegates it
/// (https://systemd.io/CGROUP_DELEGATION). Nothing where there is no such folder.
[[nodiscard]] std::optional<std::string> find_cgroup_parent(const base::Tree& tree,
                                                            bool privileged);

}  // namespace vmlaunch::launcher::survey
