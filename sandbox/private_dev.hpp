#pragma once

#include <array>
#include <string>

#include "base/unique_fd.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::sandbox {

/// What every child has: nodes that everybody may open.
inline constexpr std::array kCommonNodes = {"null", "zero", "full", "random", "urandom"};

/// A /dev for one child: a file system in memory with the common nodes and those that are added. It
/// vanishes with the child and with this. Needs CAP_SYS_ADMIN, CAP_MKNOD and CAP_CHOWN. Throws
/// std::system_error.
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

}  // namespace vmlaunch::sandbox
