#pragma once

#include <string>
#include <system_error>

namespace vmlaunch::base {

/// Throws std::system_error of errno: "Cannot <action>: <cause>". `action` is verb and object.
[[noreturn]] void throw_errno(const std::string& action);
[[noreturn]] void throw_errno(int error, const std::string& action);

/// Passes on a system call's result and throws when it is -1.
template <typename Result>
Result check(Result result, const std::string& action) {
  if (result == static_cast<Result>(-1)) {
    throw_errno(action);
  }
  return result;
}

/// The text of an errno value; safe beside other threads.
[[nodiscard]] std::string error_text(int error);

}  // namespace vmlaunch::base
