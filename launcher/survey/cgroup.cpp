#include "launcher/survey/cgroup.hpp"

#include <fcntl.h>
#include <unistd.h>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// Where cgroup2 is mounted for writing (proc(5), /proc/[pid]/mountinfo: the fields before " - "
/// are six and more, the fifth the mount point, the sixth its options).
std::optional<std::string> find_mount(const base::Tree& tree) {
  const std::string mounts = tree.read("/proc/self/mountinfo").value_or("");
  for (const std::string& line : base::split(mounts, '\n')) {
    const std::vector<std::string> fields = base::split(line, ' ');
    if (line.find(" - cgroup2 ") != std::string::npos && fields.size() > 6 &&
        fields[5].starts_with("rw") && fields[4].find('\\') == std::string::npos) {
      return fields[4];
    }
  }
  return std::nullopt;
}

/// The caller's cgroup: the line "0::/path" of /proc/self/cgroup.
std::string own_path(const base::Tree& tree) {
  const std::string groups = tree.read("/proc/self/cgroup").value_or("");
  for (const std::string& line : base::split(groups, '\n')) {
    if (line.starts_with("0::/")) {
      return line.size() == 4 ? "" : line.substr(3);
    }
  }
  return "";
}

}  // namespace

std::optional<std::string> find_cgroup_parent(const base::Tree& tree, bool privileged) {
  const auto mount = find_mount(tree);
  if (!mount) {
    return std::nullopt;
  }
  const std::string parent = privileged ? *mount : *mount + own_path(tree);
  // To move a process into a child, cgroup.procs of the common ancestor must be writable too
  // (Documentation/admin-guide/cgroup-v2.rst, "Delegation Containment").
  for (const std::string& needed : {parent, parent + "/cgroup.procs"}) {
    if (!tree.exists(needed) ||
        (!privileged &&
         ::faccessat(AT_FDCWD, tree.path_of(needed).c_str(), W_OK, AT_EACCESS) != 0)) {
      return std::nullopt;
    }
  }
  return parent;
}

}  // namespace vmlaunch::launcher::survey
