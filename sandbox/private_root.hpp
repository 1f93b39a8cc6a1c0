#pragma once

#include <optional>
#include <string>
#include <vector>

#include "sandbox/privileges.hpp"

namespace vmlaunch::sandbox {

/// What a child sees of the host's files: nothing but this. It has no /proc.
struct RootSpec {
  /// A file that the child finds under a name, to read.
  struct File {
    int fd = -1;
    std::string path;  ///< absolute, in the child
  };

  /// Folders, files and sockets, to read, under their own names. What the host does not have, or
  /// the child's own rights do not lead to, is left out.
  std::vector<std::string> shared;
  std::vector<std::string> hidden;  ///< folders of those that the child finds empty
  std::vector<File> files;
  std::optional<int> dev;  ///< PrivateDev::tree(); nothing: a /dev with kCommonNodes and `nodes`
  std::vector<std::string> nodes;  ///< nodes and folders of the host's /dev, by their names in it
  bool network = false;            ///< the host's; else none at all
};

/// Leaves the host's namespaces for good: mounts, IPC, host name, network, and, without root, that
/// of users. The process is then in a root folder of its own, a file system in memory that cannot
/// be written to, with copies of the mounts of `spec`. `who` the process is to become. Needs
/// CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SETUID and CAP_SETGID, or the right to make a user namespace
/// (user_namespaces(7)). Throws std::system_error.
void enter_private_root(const RootSpec& spec, const Credentials& who);

/// Sees all of the host's files from now on but `dev`, a PrivateDev::tree(), in place of its /dev.
/// Needs CAP_SYS_ADMIN. Throws std::system_error.
void enter_dev(int dev);

/// The errno for which this process has no way to a private root folder, tried in a child; 0 if it
/// has.
[[nodiscard]] int private_root_obstacle(bool network);

}  // namespace vmlaunch::sandbox
