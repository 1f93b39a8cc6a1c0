#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "sandbox/policy.hpp"

namespace vmlaunch::sandbox {

/// A system call as the kernel sees it: what pointers point to is nobody's to judge, since another
/// thread may change it.
struct Call {
  int number = -1;
  std::array<std::uint64_t, 6> arguments{};
};

/// The sections of a policy that hold for one program. What the filter does not allow at once is
/// asked of a CallWatch in another process, which answers by the same rules.
class Filter {
 public:
  /// By number; those that count first come first.
  using Rules = std::map<int, std::vector<CallRule>>;

  enum class Mode {
    enforce,
    log,  ///< every call is allowed, but those that would be refused are told
  };

  /// Base and `sections`. Throws std::invalid_argument for one that the policy does not have.
  Filter(const Policy& policy, const std::vector<std::string>& sections, Mode mode);

  [[nodiscard]] Mode mode() const { return mode_; }

  /// What the rules say of a call of the process `self`: nothing when none fits.
  [[nodiscard]] const CallRule* find(const Call& call, pid_t self) const;

  /// A call that is newer than the policy.
  [[nodiscard]] bool is_newer(int number) const { return number > newest_; }

  /// Limits this process, for good, and its children. Returns the listener for a CallWatch. It
  /// needs no_new_privs. Throws std::system_error.
  [[nodiscard]] base::UniqueFd install() const;

  /// What install() gives the kernel, as the bytes of an array of sock_filter, for a process of
  /// that number.
  [[nodiscard]] std::string program(pid_t self) const;

 private:
  Mode mode_;
  int newest_;
  Rules rules_;
};

/// Nothing for a name that the library does not know, or a call that this machine does not have.
[[nodiscard]] std::optional<int> call_number(const std::string& name);

/// "openat", or "system call 500" where the library knows none of that number.
[[nodiscard]] std::string call_name(int number);

}  // namespace vmlaunch::sandbox
