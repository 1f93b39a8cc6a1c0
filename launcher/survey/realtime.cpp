#include "launcher/survey/realtime.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/text.hpp"
#include "launcher/survey/cgroup.hpp"

namespace vmlaunch::launcher::survey {

namespace {

std::string group_without_budget(const base::Tree& tree) {
  const std::string group = older_cgroup(tree, "cpu");
  return tree.read(group + "/cpu.rt_runtime_us") == "0" ? group : "";
}

/// "6.12.9+bpo-amd64"
bool has_fair_server(const base::Tree& tree) {
  const std::vector<std::string> parts =
      base::split(tree.read("/proc/sys/kernel/osrelease").value_or(""), '.');
  const auto major = base::parse_number<unsigned>(parts.front());
  const auto minor = parts.size() > 1 ? base::parse_number<unsigned>(parts[1]) : std::nullopt;
  return major && minor && (*major > 6 || (*major == 6 && *minor >= 12));
}

}  // namespace

RealtimeLimits look_at_realtime(const base::Tree& tree) {
  rlimit limit{};
  const bool known = ::getrlimit(RLIMIT_RTPRIO, &limit) == 0;
  const bool fair_server = has_fair_server(tree);
  return {group_without_budget(tree),
          !fair_server && tree.read(kThrottling).value_or("-1") != "-1",
          fair_server,
          known ? static_cast<unsigned>(std::min<rlim_t>(limit.rlim_cur, 99)) : 0};
}

std::string obstacle(const RealtimeLimits& limits, unsigned priority, bool privileged) {
  if (!limits.cgroup.empty()) {
    return "the cgroup " + limits.cgroup +
           " has no time for real-time threads (CONFIG_RT_GROUP_SCHED); type: cat " +
           base::shell_quote(limits.cgroup + "/cpu.rt_runtime_us");
  }
  if (!privileged && limits.highest < priority) {
    return "the limit of real-time priorities is " + std::to_string(limits.highest) +
           " (RLIMIT_RTPRIO); type: vmlaunch setup FILE, or: sudo vmlaunch …";
  }
  return "";
}

}  // namespace vmlaunch::launcher::survey
