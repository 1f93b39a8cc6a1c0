#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "launcher/guardian/plan_file.hpp"

namespace vmlaunch::tests {

/// "10: text" for the Failure that `action` throws, with "no right: " in front of a NoRight, and
/// "nothing" if it throws none.
template <typename Action>
std::string refusal(Action action) {
  const auto text_of = [](const launcher::Failure& failure) {
    return std::to_string(static_cast<int>(failure.code())) + ": " + failure.what();
  };
  try {
    action();
  } catch (const launcher::guardian::NoRight& failure) {
    return "no right: " + text_of(failure);
  } catch (const launcher::Failure& failure) {
    return text_of(failure);
  }
  return "nothing";
}

/// Runs `action` in a child process, which may change what belongs to a process, and returns what
/// it returned; "threw: …" or "died: …" if it did not come to that.
[[nodiscard]] std::string in_child(const std::function<std::string()>& action);

/// The same as a user without groups and capabilities. Needs root.
[[nodiscard]] std::string as_user(uid_t uid, const std::function<std::string()>& action);

/// A user that nobody is, and another.
constexpr uid_t kUser = 12345;
constexpr uid_t kOther = 12346;

/// The lines of /proc/self/status whose names are given, as "Name: value; Name: value".
[[nodiscard]] std::string status_lines(const std::string& status,
                                       const std::vector<std::string>& names);

}  // namespace vmlaunch::tests
