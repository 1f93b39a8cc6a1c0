#include "sandbox/private_root.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "base/unique_fd.hpp"
#include "sandbox/file_system.hpp"
#include "sandbox/private_dev.hpp"

namespace vmlaunch::sandbox {

namespace {

using base::check;

/// In front of a folder that every host has; by then nothing more is wanted of it.
constexpr const char* kSite = "/dev";

/// For what takes a millisecond.
constexpr std::chrono::seconds kLook{10};

/// An empty folder in the new root.
constexpr const char* kEmpty = "/empty";

/// A copy of mounts, in nobody's namespace, and where it is to be.
struct Tree {
  base::UniqueFd mount;
  std::string path;
};

bool is_root() {
  return ::geteuid() == 0;
}

// ---- copies of the host's mounts

/// Changes of the host's mounts do not reach it.
base::UniqueFd copy(int at, const std::string& path, unsigned attributes) {
  base::UniqueFd mount(::open_tree(
      at, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE | AT_EMPTY_PATH));
  if (!mount) {
    return mount;
  }
  mount_attr changed{};
  changed.attr_set = attributes;
  changed.propagation = MS_PRIVATE;
  check(::mount_setattr(mount.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &changed, sizeof changed),
        "keep QEMU from writing to " + path);
  return mount;
}

constexpr unsigned kToRead = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
constexpr unsigned kNode = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;

void add_if_there(const std::string& path, unsigned attributes, std::vector<Tree>& trees) {
  Tree tree{copy(AT_FDCWD, path, attributes), path};
  if (tree.mount) {
    trees.push_back(std::move(tree));
  } else if (errno != ENOENT && errno != EACCES && errno != ENOTDIR) {
    base::throw_errno("share " + path + " with QEMU");
  }
}

/// Files are opened with the rights of `who` while it exists, and not with root's.
class OwnRights {
 public:
  explicit OwnRights(const Credentials& who) : active_(is_root()) {
    if (active_) {
      check(::setgroups(who.groups.size(), who.groups.data()), "set the supplementary groups");
      ::setfsgid(who.gid);
      ::setfsuid(who.uid);
      // It tells no error; asked for no user at all it tells who it is.
      if (::setfsuid(static_cast<uid_t>(-1)) != static_cast<int>(who.uid)) {
        base::throw_errno(EPERM, "look for QEMU's files with its own rights");
      }
    }
  }
  ~OwnRights() {
    if (active_) {
      ::setfsuid(::geteuid());
      ::setfsgid(::getegid());
    }
  }
  OwnRights(const OwnRights&) = delete;
  OwnRights& operator=(const OwnRights&) = delete;

 private:
  bool active_;
};

void add_shared(const RootSpec& spec, const Credentials& who, std::vector<Tree>& trees) {
  const OwnRights rights(who);
  for (const std::string& path : spec.shared) {
    add_if_there(path, kToRead, trees);
  }
  if (!spec.dev) {
    for (const char* name : kCommonNodes) {
      add_if_there(std::string("/dev/") + name, kNode, trees);
    }
    for (const std::string& name : spec.nodes) {
      add_if_there("/dev/" + name, kNode, trees);
    }
  }
}

bool is_same(int left, int right) {
  struct stat first {};
  struct stat second {};
  check(::fstat(left, &first), "look at a file of QEMU's");
  check(::fstat(right, &second), "look at a file of QEMU's");
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

/// In a user namespace a descriptor of before is of a mount that is not ours to copy; the one
/// under the same name is.
base::UniqueFd open_again(const RootSpec::File& file) {
  const std::string name =
      std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(file.fd));
  base::UniqueFd again = base::open_file(name, O_PATH);
  if (!is_same(again.get(), file.fd)) {
    base::throw_errno(ESTALE, "share " + name + " with QEMU");
  }
  return again;
}

void add_files(const RootSpec& spec, std::vector<Tree>& trees) {
  for (const RootSpec::File& file : spec.files) {
    const base::UniqueFd again = is_root() ? base::UniqueFd() : open_again(file);
    Tree tree{copy(again ? again.get() : file.fd, "", kToRead | MOUNT_ATTR_NOEXEC), file.path};
    if (!tree.mount) {
      base::throw_errno("share " + file.path + " with QEMU");
    }
    trees.push_back(std::move(tree));
  }
}

// ---- namespaces

void write_map(const char* path, const std::string& text) {
  base::write_all(base::open_file(path, O_WRONLY).get(), text, path);
}

void leave_namespaces(bool keeps_network) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  const int network = keeps_network ? 0 : CLONE_NEWNET;
  const int users = is_root() ? 0 : CLONE_NEWUSER;
  check(::unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | network | users),
        "leave the host's namespaces");
  if (users != 0) {
    const auto itself = [](auto id) {
      return std::to_string(id) + " " + std::to_string(id) + " 1";
    };
    // What belongs to a process that may not be traced is root's in /proc.
    check(::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "take its own place in /proc");
    write_map("/proc/self/setgroups", "deny");
    write_map("/proc/self/uid_map", itself(uid));
    write_map("/proc/self/gid_map", itself(gid));
    forbid_tracing();
  }
  // Else the host would see what is mounted here.
  check(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "keep mounts to itself");
}

// ---- the new root

/// Everything that is not below the folder that the process is in is gone afterwards.
void make_root_of_this_folder() {
  const std::string action =
      "make its root folder QEMU's (the host's must be a mount, which that of a chroot is not)";
  if (::syscall(SYS_pivot_root, ".", ".") == 0) {
    check(::umount2(".", MNT_DETACH), action);
  } else if (errno == EINVAL) {
    // The host's root is its initramfs, which stays: it is hidden behind this one.
    check(::mount(".", "/", nullptr, MS_MOVE, nullptr), action);
    check(::chroot("."), action);
  } else {
    base::throw_errno(action);
  }
  check(::chdir("/"), action);
}

/// Nothing of the host is in it: no name in it leads out, whatever is put into it later.
void enter_empty_root() {
  const base::UniqueFd root =
      make_file_system("a root folder", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  check(::move_mount(root.get(), "", AT_FDCWD, kSite, MOVE_MOUNT_F_EMPTY_PATH),
        "mount its root folder");
  check(::chdir(kSite), "enter its root folder");
  make_root_of_this_folder();
}

void make_folder(const std::string& path) {
  for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    if (::mkdir(path.substr(0, end).c_str(), 0755) != 0 && errno != EEXIST) {
      base::throw_errno("make " + path + " in QEMU's root folder");
    }
    if (end == std::string::npos) {
      return;
    }
  }
}

/// What a mount is put in front of, unless what is there by now already has it.
void make_place(const std::string& path, bool folder) {
  if (::access(path.c_str(), F_OK) == 0) {
    return;
  }
  if (folder) {
    return make_folder(path);
  }
  make_folder(path.substr(0, path.rfind('/')));
  base::UniqueFd(check(::open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0444),
                       "make " + path + " in QEMU's root folder"));
}

void put(int mount, const std::string& path) {
  struct stat info {};
  check(::fstat(mount, &info), "look at " + path);
  make_place(path, S_ISDIR(info.st_mode));
  check(::move_mount(mount, "", AT_FDCWD, path.c_str(), MOVE_MOUNT_F_EMPTY_PATH),
        "mount " + path + " in QEMU's root folder");
}

void hide(const std::string& path) {
  if (::access(path.c_str(), F_OK) == 0) {
    const base::UniqueFd empty = copy(AT_FDCWD, kEmpty, kToRead | MOUNT_ATTR_NOEXEC);
    check(empty.get(), "hide " + path + " from QEMU");
    put(empty.get(), path);
  }
}

void forbid_changes() {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  check(::mount_setattr(AT_FDCWD, "/", 0, &attributes, sizeof attributes),
        "keep QEMU from writing to its root folder");
}

void furnish(const RootSpec& spec, const std::vector<Tree>& trees) {
  const mode_t umask = ::umask(0);
  make_folder(kEmpty);
  for (const Tree& tree : trees) {
    put(tree.mount.get(), tree.path);
  }
  for (const std::string& path : spec.hidden) {
    hide(path);
  }
  if (spec.dev) {
    put(*spec.dev, "/dev");
  }
  ::umask(umask);
  forbid_changes();
}

}  // namespace

void enter_private_root(const RootSpec& spec, const Credentials& who) {
  std::vector<Tree> trees;
  if (is_root()) {
    add_files(spec, trees);  // of the host's mounts, while they are ours
  }
  leave_namespaces(spec.network);
  if (!is_root()) {
    add_files(spec, trees);
  }
  add_shared(spec, who, trees);
  enter_empty_root();
  furnish(spec, trees);
}

void enter_dev(int dev) {
  leave_namespaces(true);
  check(::move_mount(dev, "", AT_FDCWD, "/dev", MOVE_MOUNT_F_EMPTY_PATH), "mount its /dev");
}

int private_root_obstacle(bool network) {
  const base::Child child = base::fork_child("a look at namespaces");
  if (child.pid == 0) {
    int obstacle = 0;
    try {
      leave_namespaces(network);
      enter_empty_root();
    } catch (const std::system_error& error) {
      obstacle = error.code().value();
    }
    ::_exit(obstacle);
  }
  const auto status = base::reap_within(child.pidfd.get(), kLook);
  if (!status) {
    static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));
    return ETIMEDOUT;
  }
  return status->signal == 0 ? status->code : EINTR;
}

}  // namespace vmlaunch::sandbox
