#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/cpu_set.hpp"

namespace vmlaunch::launcher::systemd {

/// A unit as systemd shows it.
struct Unit {
  std::string active_state;  ///< "active", "inactive", "failed", "activating", …
  bool has_job = false;      ///< it is to start or stop, and has not yet
  bool loaded = false;       ///< systemd knows it
  bool can_return = false;   ///< it can be stopped, and started again as it was

  /// It runs, or is about to.
  [[nodiscard]] bool is_up() const {
    return active_state == "active" || active_state == "reloading" || active_state == "activating";
  }

  bool operator==(const Unit&) const = default;
};

/// One that systemd does not know is shown too, as not loaded. All of these throw
/// std::system_error; a bus that is stuck holds them up, so they are called in a child.
[[nodiscard]] Unit look_at_unit(const std::string& name);

/// These return once systemd has taken the job. To start also forgets how often it has failed.
void stop_unit(const std::string& name);
void start_unit(const std::string& name);

/// Has systemd turn on the controllers "cpu" and "cpuset" for a unit's cgroup, for as long as the
/// unit is there: it does so for who has a weight, and CPUs that it may use. May take effect
/// later.
void demand_controllers(const std::string& unit, std::uint64_t weight, const base::CpuSet& cpus);

/// The CPUs to which units are limited, of those that are active; none: no limit.
[[nodiscard]] std::map<std::string, base::CpuSet> allowed_cpus(
    const std::vector<std::string>& units);

/// For as long as the machine is up. What systemd keeps of it, an empty setting below
/// /run/systemd/system.control, is there afterwards too.
void allow_cpus(const std::string& unit, const base::CpuSet& cpus);

}  // namespace vmlaunch::launcher::systemd
