#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace vmlaunch::sandbox {

/// What becomes of a system call. From what counts first to what counts last, where several rules
/// without a condition, or several with one, fit the same call.
enum class Answer {
  allow,
  start,   ///< as long as the guest has not run; then as `refuse`
  once,    ///< for the start of the program
  refuse,  ///< EPERM, and said
  eperm,   ///< without a word
  enosys,  ///< without a word
  kill,
};

/// About one argument of a call.
struct Condition {
  unsigned argument = 0;  ///< from 0
  std::uint64_t mask = ~std::uint64_t{0};
  std::uint64_t value = 0;
  bool self = false;  ///< the child's pid, in place of `value`

  bool operator==(const Condition&) const = default;
};

struct CallRule {
  std::string call;
  std::vector<Condition> conditions;  ///< all of them hold
  Answer answer = Answer::kill;

  bool operator==(const CallRule&) const = default;
};

/// Which system calls a program may make. Whatever no rule is about is refused.
struct Policy {
  int newest = 0;  ///< the highest number of a call that its author knew
  std::map<std::string, std::vector<CallRule>> sections;
};

/// The section that holds for all.
constexpr const char* kBaseSection = "base";

/// Reads a policy, whose form the file itself tells. Throws std::invalid_argument that names the
/// line.
[[nodiscard]] Policy parse_policy(std::string_view text);

/// QEMU's: configs/seccomp.policy, as it was when this program was built.
[[nodiscard]] const Policy& own_policy();

}  // namespace vmlaunch::sandbox
