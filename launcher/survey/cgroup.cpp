#include "launcher/survey/cgroup.hpp"

#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

constexpr const char* kMounts = "/proc/self/mountinfo";
constexpr const char* kOwn = "/proc/self/cgroup";

/// Where cgroup2 is mounted for writing (proc(5), /proc/[pid]/mountinfo: the fields before " - "
/// are six and more, the fifth the mount point, the sixth its options).
std::optional<std::string> find_mount(const base::Tree& tree) {
  const std::string mounts = tree.read(kMounts).value_or("");
  for (const std::string& line : base::split(mounts, '\n')) {
    const std::vector<std::string> fields = base::split(line, ' ');
    if (line.find(" - cgroup2 ") != std::string::npos && fields.size() > 6 &&
        fields[5].starts_with("rw") && fields[4].find('\\') == std::string::npos) {
      return fields[4];
    }
  }
  return std::nullopt;
}

/// The caller's cgroup in one hierarchy (cgroups(7), /proc/[pid]/cgroup: its number, its
/// controllers, none for cgroup2, and the path).
std::optional<std::string> path_in(const base::Tree& tree, std::string_view controllers) {
  const std::string groups = tree.read(kOwn).value_or("");
  for (const std::string& line : base::split(groups, '\n')) {
    const std::size_t middle = line.find(':') + 1;
    const std::size_t path = line.find(":/", middle);
    if (path != std::string::npos && line.substr(middle, path - middle) == controllers) {
      return path + 2 == line.size() ? "" : line.substr(path + 1);
    }
  }
  return std::nullopt;
}

bool has_word(const std::string& list, const std::string& word) {
  const std::vector<std::string> words = base::split(list, ',');
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// The caller's own, but for a guardian that has made room.
std::string place_of_caller(const base::Tree& tree) {
  const std::string own = path_in(tree, "").value_or("");
  const std::string below = std::string("/") + kGuardianCgroup;
  return own.ends_with(below) ? own.substr(0, own.size() - below.size()) : own;
}

/// What systemd writes on a cgroup that it leaves to who lives there: for all to read, and for root
/// alone before it could do that.
bool is_delegated(const base::Tree& tree, const std::string& folder) {
  const base::UniqueFd fd = tree.open(folder, O_RDONLY | O_DIRECTORY);
  for (const char* name : {"user.delegate", "trusted.delegate"}) {
    char value = '\0';
    if (fd && ::fgetxattr(fd.get(), name, &value, 1) == 1 && value == '1') {
      return true;
    }
  }
  return false;
}

}  // namespace

bool has_systemd(const base::Tree& tree) {
  return tree.exists("/run/systemd/system");
}

std::string own_cgroup(const base::Tree& tree) {
  const auto systemds = path_in(tree, "name=systemd");
  return systemds ? *systemds : path_in(tree, "").value_or("");
}

std::string older_cgroup(const base::Tree& tree, const std::string& controller) {
  std::string mount;
  const std::string mounts = tree.read(kMounts).value_or("");
  for (const std::string& line : base::split(mounts, '\n')) {
    const std::vector<std::string> fields = base::split(line, ' ');
    if (line.find(" - cgroup ") != std::string::npos && fields.size() > 6 &&
        has_word(fields.back(), controller)) {
      mount = fields[4];
    }
  }
  const std::string groups = tree.read(kOwn).value_or("");
  for (const std::string& line : base::split(groups, '\n')) {
    const std::size_t middle = line.find(':') + 1;
    const std::size_t path = line.find(":/", middle);
    if (!mount.empty() && path != std::string::npos &&
        has_word(line.substr(middle, path - middle), controller)) {
      return mount + (path + 2 == line.size() ? "" : line.substr(path + 1));
    }
  }
  return "";
}

std::optional<std::string> find_cgroup_parent(const base::Tree& tree, bool privileged) {
  const auto mount = find_mount(tree);
  if (!mount) {
    return std::nullopt;
  }
  const bool is_own = !privileged || has_systemd(tree);
  const std::string parent = is_own ? *mount + place_of_caller(tree) : *mount;
  if (privileged && is_own && !is_delegated(tree, parent)) {
    return std::nullopt;
  }
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

CpuControl look_at_cpu_control(const base::Tree& tree) {
  const auto mount = find_mount(tree);
  // A container's root is none: it has processes, and gives no controllers on.
  if (!mount || tree.exists(*mount + "/cgroup.type")) {
    return {};
  }
  const std::vector<std::string> all =
      words_of(tree.read(*mount + "/cgroup.controllers").value_or(""));
  const auto has = [&](const char* name) {
    return std::find(all.begin(), all.end(), name) != all.end();
  };
  return {has("cpu") && has("cpuset"),
          has("cpuset") && tree.exists(*mount + "/cpuset.cpus.isolated")};
}

base::CpuSet look_at_cpuset(const base::Tree& tree, bool privileged) {
  const auto mount = find_mount(tree);
  // Where the controller is off, the next one above says.
  std::string folder = privileged ? "" : place_of_caller(tree);
  while (mount) {
    if (const auto text = tree.read(*mount + folder + "/cpuset.cpus.effective")) {
      return base::parse_cpu_set(*text).value_or(base::CpuSet());
    }
    if (folder.empty()) {
      break;
    }
    folder = folder.substr(0, folder.rfind('/'));
  }
  return {};
}

std::optional<Cgroup> look_at_cgroup(Reader& reader, bool privileged) {
  const auto mount = find_mount(reader.tree());
  if (!mount) {
    return std::nullopt;
  }
  reader.keep(kMounts, "0 0 0:0 / " + *mount + " rw - cgroup2 cgroup2 rw");
  const std::string name = "/cgroup.controllers";
  Cgroup cgroup{reader.words(*mount + name), std::nullopt};
  if (const auto parent = find_cgroup_parent(reader.tree(), privileged)) {
    const std::string shown = *parent == *mount ? "" : "/caller";
    const std::string usable = reader.tree().read(*parent + name).value_or("");
    cgroup.usable = words_of(usable);
    reader.keep(kOwn, "0::/" + (shown.empty() ? shown : shown.substr(1)));
    reader.keep(*mount + shown + name, usable);
    reader.keep(*mount + shown + "/cgroup.procs", "");
  }
  return cgroup;
}

}  // namespace vmlaunch::launcher::survey
