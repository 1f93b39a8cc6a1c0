#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/cpu_set.hpp"
#include "base/tree.hpp"
#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

/// Where the guardian is below its unit's cgroup, once that gives controllers on.
constexpr const char* kGuardianCgroup = "guardian";

/// Whether systemd is the first process (sd_booted(3)), which has the tree of cgroups then.
[[nodiscard]] bool has_systemd(const base::Tree& tree);

/// The caller's own cgroup as a path in the tree: "" is its root. systemd's where it has a tree of
/// its own (cgroup v1).
[[nodiscard]] std::string own_cgroup(const base::Tree& tree);

/// The caller's folder in a tree of the older kind (cgroup v1) that has this controller, below
/// where it is mounted; "" for none.
[[nodiscard]] std::string older_cgroup(const base::Tree& tree, const std::string& controller);

/// The cgroup2 folder in which a VM's own cgroup can be made: the caller's own cgroup for a user to
/// whom it is delegated; for root the root of the tree, but where systemd keeps the tree, only the
/// caller's own cgroup, and only if systemd says that it delegates it
/// (https://systemd.io/CGROUP_DELEGATION). Nothing where there is no such folder.
[[nodiscard]] std::optional<std::string> find_cgroup_parent(const base::Tree& tree,
                                                            bool privileged);

/// What the root of cgroup2 has for CPUs.
struct CpuControl {
  bool controllers = false;  ///< "cpu" and "cpuset"
  bool partitions = false;   ///< isolated ones wherever in the tree (Linux 6.8)
};

[[nodiscard]] CpuControl look_at_cpu_control(const base::Tree& tree);

/// The CPUs that a VM's cgroup may use: of root's, which is below the root, and of a user's, which
/// is below the caller's own. None where the kernel does not say.
[[nodiscard]] base::CpuSet look_at_cpuset(const base::Tree& tree, bool privileged);

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
