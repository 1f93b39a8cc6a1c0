#include "launcher/survey/session.hpp"

#include <array>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "base/text.hpp"
#include "launcher/config/values.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/identity.hpp"
#include "launcher/survey/cgroup.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// Where an alias can be (systemd.unit(5)), the first that has it counts.
constexpr std::array kUnitFolders = {
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
};

constexpr const char* kDisplayManager = "display-manager.service";

std::optional<std::string> find_display_manager(const base::Tree& tree) {
  for (const char* folder : kUnitFolders) {
    const std::string path = std::string(folder) + "/" + kDisplayManager;
    if (const auto unit = tree.link_name(path)) {
      // One that is masked leads to /dev/null.
      return config::is_unit_name(*unit) ? unit : std::nullopt;
    }
    if (tree.exists(path)) {
      return kDisplayManager;
    }
  }
  return std::nullopt;
}

bool lingers(const base::Tree& tree, uid_t uid) {
  try {
    return tree.exists("/var/lib/systemd/linger/" + find_user(std::to_string(uid)).name);
  } catch (const Failure&) {
    return false;  // nobody whom logind knows
  }
}

}  // namespace

std::optional<uid_t> user_of_cgroup(const std::string& cgroup) {
  constexpr std::string_view kPrefix = "user-";
  constexpr std::string_view kSuffix = ".slice";
  for (const std::string& part : base::split(cgroup, '/')) {
    if (part.size() > kPrefix.size() + kSuffix.size() && part.starts_with(kPrefix) &&
        part.ends_with(kSuffix)) {
      return base::parse_number<uid_t>(std::string_view(part).substr(
          kPrefix.size(), part.size() - kPrefix.size() - kSuffix.size()));
    }
  }
  return std::nullopt;
}

std::string unit_of_cgroup(const std::string& cgroup) {
  std::string unit;
  for (const std::string& part : base::split(cgroup, '/')) {
    if (part.ends_with(".service") || part.ends_with(".scope")) {
      unit = part;
    }
  }
  return unit;
}

Session look_at_session(const base::Tree& tree) {
  Session session;
  session.systemd = has_systemd(tree);
  session.cgroup = own_cgroup(tree);
  if (const auto user = user_of_cgroup(session.cgroup)) {
    session.lingers = lingers(tree, *user);
  }
  std::error_code error;
  session.program = std::filesystem::read_symlink(tree.path_of("/proc/self/exe"), error);
  session.display_manager = find_display_manager(tree);
  return session;
}

}  // namespace vmlaunch::launcher::survey
