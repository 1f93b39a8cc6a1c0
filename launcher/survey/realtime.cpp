#include "launcher/survey/realtime.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

bool has_word(const std::string& list, const char* word) {
  const std::vector<std::string> words = base::split(list, ',');
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Where the older cgroups of the controller "cpu" are mounted (proc(5), /proc/[pid]/mountinfo).
std::optional<std::string> find_mount(const base::Tree& tree) {
  const std::string mounts = tree.read("/proc/self/mountinfo").value_or("");
  for (const std::string& line : base::split(mounts, '\n')) {
    const std::vector<std::string> fields = base::split(line, ' ');
    if (line.find(" - cgroup ") != std::string::npos && fields.size() > 6 &&
        has_word(fields.back(), "cpu")) {
      return fields[4];
    }
  }
  return std::nullopt;
}

/// The caller's there: "" is the root, which always has a budget.
std::string own_group(const base::Tree& tree) {
  const std::string groups = tree.read("/proc/self/cgroup").value_or("");
  for (const std::string& line : base::split(groups, '\n')) {
    const std::vector<std::string> fields = base::split(line, ':');
    if (fields.size() == 3 && has_word(fields[1], "cpu") && fields[2] != "/") {
      return fields[2];
    }
  }
  return "";
}

std::string group_without_budget(const base::Tree& tree) {
  const auto mount = find_mount(tree);
  const std::string group = own_group(tree);
  const bool denied =
      mount && !group.empty() && tree.read(*mount + group + "/cpu.rt_runtime_us") == "0";
  return denied ? *mount + group : "";
}

}  // namespace

RealtimeLimits look_at_realtime(const base::Tree& tree) {
  rlimit limit{};
  const bool known = ::getrlimit(RLIMIT_RTPRIO, &limit) == 0;
  return {group_without_budget(tree),
          tree.read(kThrottling) != "-1",
          known ? static_cast<unsigned>(std::min<rlim_t>(limit.rlim_cur, 99)) : 0};
}

}  // namespace vmlaunch::launcher::survey
