#pragma once

#include <sys/types.h>

#include <vector>

namespace vmlaunch::sandbox {

/// Who a process is: what it may open and signal.
struct Credentials {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  ///< supplementary

  bool operator==(const Credentials&) const = default;
};

/// Becomes `who` for good: no capability in any set, no_new_privs, no core dump, no ptrace by
/// others of the same uid. Without privileges the ids must be the caller's own already. Throws if
/// anything of it fails, and if root could be had again afterwards.
void become(const Credentials& who);

/// Capabilities by their numbers in <linux/capability.h>.
using Capabilities = std::vector<int>;

/// Keeps these capabilities, of those that are there, and gives up all others for good.
void keep_only(const Capabilities& kept);

/// Keeps other processes of the same user from tracing this one and reading its memory.
void forbid_tracing();

}  // namespace vmlaunch::sandbox
