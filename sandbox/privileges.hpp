#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/unique_fd.hpp"

namespace vmlaunch::sandbox {

/// Who a process is: what it may open and signal.
struct Credentials {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  ///< supplementary

  bool operator==(const Credentials&) const = default;
};

/// What the kernel says of this process, also when it sees no /proc any more.
class Proof {
 public:
  Proof();  ///< while there is a /proc

  /// Its descriptor gets a number that is no less.
  void set_aside(int least_fd);

  /// Throws std::system_error unless the process is `who`, without a capability in any set and with
  /// no_new_privs. With `for_good`: with no capability in the bounding set either, the securebits
  /// locked.
  void require(const Credentials& who, bool for_good) const;

  /// Throws std::system_error unless the process has these supplementary groups and no others.
  void require_groups(std::vector<gid_t> groups) const;

 private:
  void require_lines(const std::vector<std::string>& lines) const;

  base::UniqueFd status_;
};

/// Becomes `who` for good: no capability in any set and no way to one (securebits locked),
/// no_new_privs, no core dump, no ptrace by others of the same uid. Without privileges the ids must
/// be the caller's own already. Throws if anything of it fails or is not so afterwards, and if root
/// could be had again.
void become(const Credentials& who, const Proof& proof = Proof());

/// Capabilities by their numbers in <linux/capability.h>.
using Capabilities = std::vector<int>;

/// Whether the caller has it now.
[[nodiscard]] bool has_capability(int capability);

/// Keeps these capabilities, of those that are there, and gives up all others for good.
void keep_only(const Capabilities& kept);

/// Keeps other processes of the same user from tracing this one and reading its memory.
void forbid_tracing();

}  // namespace vmlaunch::sandbox
