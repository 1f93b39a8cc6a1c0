#include "launcher/survey/realtime.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using tests::PciTree;

TEST_CASE("realtime: a cgroup without time for such threads is named", "[survey]") {
  PciTree tree;
  tree.write("/proc/self/mountinfo",
             "31 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
             "32 23 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
             "33 23 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n");
  tree.write("/proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/a/b:c\n0::/u\n");
  const std::string group = "/sys/fs/cgroup/cpu,cpuacct/a/b:c";
  CHECK(look_at_realtime(tree.tree()).cgroup.empty());  // a kernel that has no such budgets
  tree.write(group + "/cpu.rt_runtime_us", "0\n");
  const RealtimeLimits limits = look_at_realtime(tree.tree());
  CHECK(limits.cgroup == group);
  CHECK(obstacle(limits, 1, true) ==
        "the cgroup " + group +
            " has no time for real-time threads (CONFIG_RT_GROUP_SCHED); type: cat "
            "/sys/fs/cgroup/cpu,cpuacct/a/b:c/cpu.rt_runtime_us");
  tree.write(group + "/cpu.rt_runtime_us", "950000\n");
  CHECK(look_at_realtime(tree.tree()).cgroup.empty());
  // The root's own, which is nobody's to limit.
  tree.write("/proc/self/cgroup", "4:cpu,cpuacct:/\n");
  tree.write("/sys/fs/cgroup/cpu,cpuacct/cpu.rt_runtime_us", "950000\n");
  CHECK(look_at_realtime(tree.tree()).cgroup.empty());
}

TEST_CASE("realtime: a kernel stops such threads, or serves others beside them", "[survey]") {
  PciTree tree;
  tree.write("/proc/sys/kernel/sched_rt_runtime_us", "950000\n");
  struct Row {
    const char* release;
    bool throttled;
    bool fair_server;
  };
  for (const Row& row : {Row{"6.1.0-32-amd64", true, false},
                         Row{"6.11.10+bpo-amd64", true, false},
                         Row{"6.12.9+bpo-amd64", false, true},
                         Row{"7.0.1", false, true},
                         Row{"5.15", true, false},
                         Row{"what", true, false}}) {
    INFO(row.release);
    tree.write("/proc/sys/kernel/osrelease", std::string(row.release) + "\n");
    const RealtimeLimits limits = look_at_realtime(tree.tree());
    CHECK(limits.throttled == row.throttled);
    CHECK(limits.fair_server == row.fair_server);
  }
  tree.write("/proc/sys/kernel/osrelease", "6.1.0\n");
  tree.write("/proc/sys/kernel/sched_rt_runtime_us", "-1\n");
  CHECK_FALSE(look_at_realtime(tree.tree()).throttled);
  tree.remove("/proc/sys/kernel/sched_rt_runtime_us");
  CHECK_FALSE(look_at_realtime(tree.tree()).throttled);
}

TEST_CASE("realtime: a user's limit is told with what grants it", "[survey]") {
  CHECK(obstacle({"", true, false, 4}, 4, false).empty());
  CHECK(obstacle({"", true, false, 4}, 5, true).empty());
  CHECK(
      obstacle({"", true, false, 4}, 5, false) ==
      "the limit of real-time priorities is 4 (RLIMIT_RTPRIO); type: vmlaunch setup FILE, or: sudo "
      "vmlaunch …");
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
