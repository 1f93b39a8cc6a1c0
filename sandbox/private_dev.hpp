#pragma once

#include <string>

#include "base/unique_fd.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::sandbox {

/// A /dev for one child: a file system in memory with the nodes that everybody may open (null,
/// zero, full, random, urandom) and those that are added. It vanishes with the child and with this.
/// Needs CAP_SYS_ADMIN, CAP_MKNOD and CAP_CHOWN. Throws std::system_error.
class PrivateDev {
 public:
  explicit PrivateDev(const Credentials& owner);

  /// The node that the host has at `name` below /dev ("vfio/7"), for the owner alone.
  void add(const std::string& name);

  /// A node that was added, whatever the host has there by now.
  void remove(const std::string& name);

  [[nodiscard]] int tree() const { return tree_.get(); }

 private:
  void make(const std::string& name, mode_t mode, uid_t uid, gid_t gid);

  base::UniqueFd tree_;  ///< the mount's root
  Credentials owner_;
};

/// Hides the host's /dev behind `tree` of a PrivateDev, for this process and its children, for
/// good. Throws std::system_error.
void enter(int tree);

}  // namespace vmlaunch::sandbox
