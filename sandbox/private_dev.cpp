#include "sandbox/private_dev.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "base/errors.hpp"

namespace vmlaunch::sandbox {

namespace {

using base::check;

constexpr std::array kSharedNodes = {"null", "zero", "full", "random", "urandom"};

/// Nodes have no content, so little room will do; a guest that took over QEMU finds no more.
constexpr std::array<std::array<const char*, 2>, 3> kOptions = {{
    {"size", "64k"},
    {"nr_inodes", "256"},
    {"mode", "0755"},
}};

/// In nobody's namespace until a child takes it. Device nodes work in it, programs do not.
base::UniqueFd make_file_system() {
  const std::string action = "make a /dev for QEMU";
  const base::UniqueFd context(check(::fsopen("tmpfs", FSOPEN_CLOEXEC), action));
  for (const auto& [key, value] : kOptions) {
    check(::fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0), action);
  }
  check(::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), action);
  return base::UniqueFd(check(
      ::fsmount(context.get(), FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), action));
}

dev_t host_numbers(const std::string& path) {
  struct stat node {};
  check(::stat(path.c_str(), &node), "find " + path);
  if (!S_ISCHR(node.st_mode)) {
    base::throw_errno(ENODEV, "use " + path + " as a device");
  }
  return node.st_rdev;
}

}  // namespace

PrivateDev::PrivateDev(const Credentials& owner) : tree_(make_file_system()), owner_(owner) {
  for (const char* name : kSharedNodes) {
    make(name, 0666, 0, 0);
  }
}

void PrivateDev::add(const std::string& name) {
  make(name, 0600, owner_.uid, owner_.gid);
}

void PrivateDev::remove(const std::string& name) {
  check(::unlinkat(tree_.get(), name.c_str(), 0), "remove the node " + name + " of QEMU's /dev");
}

void PrivateDev::make(const std::string& name, mode_t mode, uid_t uid, gid_t gid) {
  const std::string action = "make the node " + name + " in QEMU's /dev";
  const dev_t numbers = host_numbers("/dev/" + name);
  for (std::size_t end = name.find('/'); end != std::string::npos; end = name.find('/', end + 1)) {
    const std::string folder = name.substr(0, end);
    if (::mkdirat(tree_.get(), folder.c_str(), 0755) != 0 && errno != EEXIST) {
      base::throw_errno(action);
    }
    check(::fchmodat(tree_.get(), folder.c_str(), 0755, 0), action);  // whatever our umask is
  }
  check(::mknodat(tree_.get(), name.c_str(), S_IFCHR, numbers), action);
  try {
    check(::fchmodat(tree_.get(), name.c_str(), mode, 0), action);
    check(::fchownat(tree_.get(), name.c_str(), uid, gid, AT_SYMLINK_NOFOLLOW), action);
  } catch (const std::system_error&) {
    ::unlinkat(tree_.get(), name.c_str(), 0);
    throw;
  }
}

void enter(int tree) {
  check(::unshare(CLONE_NEWNS), "leave the host's mounts");
  // Else the host would see what is mounted here.
  check(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "keep mounts to itself");
  check(::move_mount(tree, "", AT_FDCWD, "/dev", MOVE_MOUNT_F_EMPTY_PATH), "mount its /dev");
}

}  // namespace vmlaunch::sandbox
