#include "launcher/survey/kernel.hpp"

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "launcher/survey/cgroup.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/hosts.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using tests::PciTree;
using Words = std::vector<std::string>;

/// What was found, and what was not seen.
struct Found {
  Kernel kernel;
  Words unseen;
};

Found look(const PciTree& built) {
  const base::Tree tree = built.tree();
  Reader reader(tree);
  const Kernel kernel = look_at_kernel(reader);
  return {kernel, reader.unseen()};
}

TEST_CASE("kernel: release, lockdown, modules and parameters are what it says", "[kernel]") {
  PciTree built;
  tests::add_two_socket_server(built);
  built.write("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n");
  const Found found = look(built);
  const Kernel expected = {"6.1.0-18-amd64",
                           CommandLine{"intel_iommu=on", "iommu=pt", "hugepages=4096"},
                           "integrity",
                           {{"kvm", {{"halt_poll_ns", "200000"}, {"ignore_msrs", "N"}}},
                            {"kvm_intel", {{"nested", "Y"}}},
                            {"vfio_iommu_type1", {{"allow_unsafe_interrupts", "N"}}},
                            {"vfio_pci", {{"disable_idle_d3", "N"}}}}};
  CHECK(found.kernel == expected);
  CHECK(found.unseen.empty());
}

TEST_CASE("kernel: of the command line only what bears on guests is told", "[kernel]") {
  PciTree built;
  built.write("/proc/cmdline",
              "BOOT_IMAGE=/vmlinuz root=UUID=1 iommu.passthrough=1 vfio-pci.ids=10de:2482 quiet "
              "kvm.ignore_msrs=1 isolcpus=1 rd.luks.key=secret  iommux=1 nosmt -- iommu\n");
  CHECK(look(built).kernel.command_line == CommandLine{"iommu.passthrough=1",
                                                       "vfio-pci.ids=10de:2482",
                                                       "kvm.ignore_msrs=1",
                                                       "isolcpus=1",
                                                       "nosmt",
                                                       "iommu"});
}

TEST_CASE("kernel: one that says nothing is not doubted", "[kernel]") {
  const PciTree built;
  const Found found = look(built);
  CHECK(found.kernel == Kernel{});
  CHECK(found.unseen.empty());
}

TEST_CASE("hostile kernel: a lockdown that is none of its words is not understood", "[kernel]") {
  PciTree built;
  built.write("/sys/kernel/security/lockdown", "none \x1b[2J\n");
  CHECK(look(built).unseen ==
        Words{"/sys/kernel/security/lockdown: not understood: \"none \\x1b[2J\""});
}

TEST_CASE("kernel: what is hidden is said not to be seen", "[kernel]") {
  if (tests::skipped_without_root()) {
    return;
  }
  PciTree built;
  tests::add_four_core_desktop(built);
  for (const char* path : {"/proc/cmdline", "/sys/kernel/security/lockdown"}) {
    std::filesystem::permissions(built.path_of(path), std::filesystem::perms::none);
  }
  CHECK(tests::as_user(tests::kUser,
                       [&] {
                         const Found found = look(built);
                         return std::string(found.kernel.command_line ? "there" : "not there") +
                                " " + found.unseen.at(0) + " " + found.unseen.at(1);
                       }) ==
        "not there /proc/cmdline: Permission denied "
        "/sys/kernel/security/lockdown: Permission denied");
}

// ---- cgroups

std::optional<Cgroup> look_at_groups(const PciTree& built, bool privileged) {
  const base::Tree tree = built.tree();
  Reader reader(tree);
  return look_at_cgroup(reader, privileged);
}

TEST_CASE("cgroup: root can use every controller, a user those of a cgroup of his own",
          "[cgroup]") {
  PciTree built;
  tests::add_four_core_desktop(built);
  const Words all = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"};
  CHECK(look_at_groups(built, true) == Cgroup{all, all});
  const std::string own = "/sys/fs/cgroup/user.slice";
  built.write("/proc/self/cgroup", "0::/user.slice\n");
  built.write(own + "/cgroup.procs", "");
  built.write(own + "/cgroup.controllers", "memory pids\n");
  CHECK(look_at_groups(built, false) == Cgroup{all, Words{"memory", "pids"}});
  built.remove(own);
  CHECK(look_at_groups(built, false) == Cgroup{all, std::nullopt});
  built.write("/proc/self/mountinfo",
              "35 24 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
              "36 24 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n");
  CHECK(look_at_groups(built, true) == std::nullopt);
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
