#pragma once

#include <optional>
#include <string>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// Where systemd has put this process, and with it whatever it starts.
struct Session {
  bool systemd = false;  ///< it is the first process
  std::string cgroup;    ///< "/user.slice/user-1000.slice/session-2.scope"
  bool lingers = false;  ///< the user whose cgroup it is has a manager without any session
  std::string program;   ///< this program's path
  /// The unit behind display-manager.service; nothing where there is none.
  std::optional<std::string> display_manager;

  bool operator==(const Session&) const = default;
};

[[nodiscard]] Session look_at_session(const base::Tree& tree);

/// The uid of "user-1000.slice" in a cgroup's path; nothing for one of the system's.
[[nodiscard]] std::optional<uid_t> user_of_cgroup(const std::string& cgroup);

/// The innermost part of a cgroup's path that is a unit with processes: a service or a scope.
[[nodiscard]] std::string unit_of_cgroup(const std::string& cgroup);

}  // namespace vmlaunch::launcher::survey
