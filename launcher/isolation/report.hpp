#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "launcher/isolation/counters.hpp"
#include "launcher/isolation/probe.hpp"

namespace vmlaunch::launcher::isolation {

/// A thread that ran on one of the CPUs.
struct Runner {
  pid_t thread = 0;
  ThreadTime time;        ///< within the while
  bool has_come = false;  ///< it was on another CPU before: a part of its time may count for that
};

/// What happened on one CPU.
struct CpuReport {
  unsigned cpu = 0;
  std::vector<Runner> guests;  ///< the vCPUs that are on it
  std::vector<Runner> others;  ///< who had it longest comes first
  std::vector<std::pair<std::string, std::uint64_t>> interrupts;  ///< the most frequent first
  CpuTime time;                                                   ///< within the while
  std::uint64_t rest_ms =
      0;  ///< that it was busy without any of these: threads that ended, or left
  std::optional<Probe> probe;  ///< what a thread of ours found there
  bool was_closed = false;     ///< such a thread was to look, and could not run there
};

/// Who had CPUs for a while.
struct Report {
  std::chrono::nanoseconds time{};
  std::vector<CpuReport> cpus;
  std::vector<std::pair<std::string, std::uint64_t>> throttled_us;  ///< cgroups with a quota
};

/// `vcpus`: threads for which the CPUs are. A thread counts for the CPU that it was on last.
[[nodiscard]] Report compare(const Counters& before,
                             const Counters& after,
                             const base::CpuSet& cpus,
                             const std::vector<pid_t>& vcpus);

/// For people, at most as wide as a terminal; and for programs.
[[nodiscard]] std::string to_text(const Report& report);
[[nodiscard]] nlohmann::json to_json(const Report& report);

}  // namespace vmlaunch::launcher::isolation
