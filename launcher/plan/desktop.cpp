#include "launcher/plan/desktop.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::plan {

namespace {

/// A unit of the system's own, which no session's end takes along.
std::string command_outside(const config::VmSpec& spec,
                            const survey::Survey& survey,
                            const Identity& identity) {
  const std::string who =
      identity.invoker ? " --as " + std::to_string(identity.user.credentials.uid) : "";
  return "sudo systemd-run --unit=vmlaunch-" + spec.name +
         " --collect --property=TimeoutStopSec=10min " + base::shell_quote(survey.session.program) +
         who + " run " + base::shell_quote(spec.file);
}

/// Why this run would end with the desktop; "" when it would not. logind stops a session's scope
/// with the session, and a user's manager with the last one, unless the user lingers
/// (logind.conf(5), loginctl(1)). What a desktop has started in the manager it stops itself.
std::string ends_with_desktop(const survey::Session& session) {
  const auto user = survey::user_of_cgroup(session.cgroup);
  if (!user) {
    return "";
  }
  const std::string unit = survey::unit_of_cgroup(session.cgroup);
  const std::string manager = "user@" + std::to_string(*user) + ".service";
  const std::string shown = base::printable(unit);
  if (session.cgroup.find("/" + manager + "/") == std::string::npos) {
    return "it was started in a login session (" + shown + "), which ends with the desktop";
  }
  if (!unit.ends_with(".service") || unit.starts_with("app-")) {
    return "it was started by a desktop's program (" + shown + "), which ends with the desktop";
  }
  if (!session.lingers) {
    return "it is a unit (" + shown + ") of " + manager +
           ", which ends with that user's last session unless one types: loginctl enable-linger " +
           std::to_string(*user);
  }
  return "";
}

void require_outside_desktop(const config::VmSpec& spec,
                             const survey::Survey& survey,
                             const Identity& identity) {
  const std::string why = ends_with_desktop(survey.session);
  if (!why.empty()) {
    throw Failure(ExitCode::preflight,
                  "Cannot take the host's only GPU from within this run: " + why +
                      "; type: " + command_outside(spec, survey, identity));
  }
}

/// What the config names, and the display manager of a host whose screen is given.
std::vector<std::string> units_to_stop(const config::VmSpec& spec, const survey::Survey& survey) {
  std::vector<std::string> units = spec.stop_units;
  const auto& manager = survey.session.display_manager;
  if (spec.single_gpu && manager &&
      std::find(units.begin(), units.end(), *manager) == units.end()) {
    units.insert(units.begin(), *manager);
  }
  return units;
}

void require_right_to_units(const survey::Survey& survey, const Identity& identity) {
  if (!survey.session.systemd) {
    throw Failure(ExitCode::preflight,
                  "Cannot stop units, which the config's stop_units asks for: this host does not "
                  "run systemd; take stop_units out of the config");
  }
  if (!identity.privileged) {
    throw Failure(ExitCode::preflight,
                  "Cannot stop units, which the config's stop_units asks for, without root; type: "
                  "sudo vmlaunch …");
  }
}

/// A process that stops its own unit ends before it can start it again.
void require_outside_units(const config::VmSpec& spec,
                           const survey::Survey& survey,
                           const Identity& identity) {
  for (const std::string& unit : units_to_stop(spec, survey)) {
    if ((survey.session.cgroup + "/").find("/" + unit + "/") != std::string::npos) {
      throw Failure(ExitCode::preflight,
                    "Cannot stop " + unit + ": this run is a part of it; type: " +
                        command_outside(spec, survey, identity));
    }
  }
}

/// Devices that are taken from whoever has them.
template <typename Visit>
void for_each_taken(const Plan& plan, Visit visit) {
  for (const Group& group : plan.passthrough.groups) {
    for (const GroupMember& member : group.members) {
      if (member.verdict == Verdict::must_bind) {
        visit(member);
      }
    }
  }
}

}  // namespace

void require_desktop_can_end(const config::VmSpec& spec,
                             const survey::Survey& survey,
                             const Identity& identity,
                             Plan& plan) {
  if (!spec.stop_units.empty()) {
    require_right_to_units(survey, identity);
  }
  require_outside_units(spec, survey, identity);
  if (!spec.single_gpu) {
    return;
  }
  if (survey.session.systemd) {
    require_outside_desktop(spec, survey, identity);
  } else {
    plan.warnings.emplace_back(
        "single_gpu: without systemd nobody stops the desktop, or can tell whether this run would "
        "end with it: stop it before, and start the run from a console or through ssh");
  }
}

void add_desktop_steps(const config::VmSpec& spec, const survey::Survey& survey, Plan& plan) {
  std::vector<steps::DriverOf> drivers;
  std::vector<base::PciAddress> displays;
  for_each_taken(plan, [&](const GroupMember& member) {
    if (!member.driver.empty()) {
      drivers.push_back({member.address, member.driver});
    }
    if (survey.pci.find(member.address)->is_display()) {
      displays.push_back(member.address);
    }
  });
  for (const std::string& unit : units_to_stop(spec, survey)) {
    plan.steps.push_back(steps::stop_unit(unit, drivers));
  }
  if (std::any_of(displays.begin(), displays.end(), [&](const base::PciAddress& address) {
        return survey.screen.consoles.contains(address);
      })) {
    plan.steps.push_back(steps::release_console());
  }
  for (const std::string& framebuffer : survey.screen.firmware) {
    for (const base::PciAddress& address : displays) {
      plan.steps.push_back(steps::release_framebuffer(framebuffer, address));
    }
  }
}

}  // namespace vmlaunch::launcher::plan
