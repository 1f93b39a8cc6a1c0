#include "sandbox/private_dev.hpp"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/errors.hpp"
#include "sandbox/file_system.hpp"

namespace vmlaunch::sandbox {

namespace {

using base::check;

dev_t host_numbers(const std::string& path) {
  struct stat node {};
  check(::stat(path.c_str(), &node), "find " + path);
  if (!S_ISCHR(node.st_mode)) {
    base::throw_errno(ENODEV, "use " + path + " as a device");
  }
  return node.st_rdev;
}

}  // namespace

PrivateDev::PrivateDev(const Credentials& owner)
    : tree_(make_file_system("a /dev", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC)), owner_(owner) {
  for (const char* name : kCommonNodes) {
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

}  // namespace vmlaunch::sandbox
