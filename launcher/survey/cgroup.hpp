#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/tree.hpp"
#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

/// The cgroup2 folder in which a VM's own cgroup can be made: the root of the tree for root, the
/// caller's own cgroup for a user to whom it is delegated. Nothing where there is no such folder.
[[nodiscard]] std::optional<std::string> find_cgroup_parent(const base::Tree& tree,
                                                            bool privileged);

/// What cgroup2 offers.
struct Cgroup {
  std::vector<std::string> controllers;  ///< of the whole host
  /// Those that a VM's cgroup can use; nothing where the caller can make none.
  std::optional<std::vector<std::string>> usable;

  bool operator==(const Cgroup&) const = default;
};

/// Nothing without a cgroup2 that is mounted for writing. A record has the caller's cgroup under a
/// name that tells nothing of the caller.
[[nodiscard]] std::optional<Cgroup> look_at_cgroup(Reader& reader, bool privileged);

}  // namespace vmlaunch::launcher::survey
