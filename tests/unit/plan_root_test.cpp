#include <algorithm>
#include <string>
#include <vector>

#include "launcher/plan/plan.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

/// What is shared beside what every VM has.
std::string shared_by(const Plan& plan) {
  const std::vector<std::string> always = plan_of("{}").qemu.root.shared;
  std::vector<std::string> more;
  for (const std::string& path : plan.qemu.root.shared) {
    if (std::find(always.begin(), always.end(), path) == always.end()) {
      more.push_back(path);
    }
  }
  return base::join(more, " ");
}

TEST_CASE("plan: QEMU sees programs and the host's topology, and no network", "[plan]") {
  const Root root = plan_of("{}").qemu.root;
  CHECK_FALSE(root.whole_host);
  CHECK(base::join(root.shared, " ") ==
        "/usr /bin /sbin /lib /lib32 /lib64 /libx32 /nix/store /gnu/store /etc/ld.so.cache "
        "/etc/alternatives /etc/localtime /sys/devices/system/cpu /sys/devices/system/node");
  CHECK(root.hidden.empty());
  CHECK_FALSE(root.network);
  CHECK(root.user_namespace);
  CHECK_FALSE(plan_of("{}", host(), kSudo).qemu.root.user_namespace);
}

TEST_CASE("plan: what a device looks up is seen by the VMs that have it", "[plan]") {
  const Plan network = plan_of(R"({"network": [{"user": {}}]})");
  CHECK(shared_by(network) == "/etc/resolv.conf");
  CHECK(network.qemu.root.network);

  const Plan screen = plan_of(R"({"display": {"vnc": "127.0.0.1:5901"}})");
  CHECK(shared_by(screen).empty());
  CHECK(screen.qemu.root.network);

  survey::Survey survey = host();
  survey.sound_servers = {"/run/user/1000/pulse/native"};
  const Plan sound = plan_of(R"({"audio": {"backend": "pa"}})", survey);
  CHECK(shared_by(sound) == "/run/user/1000/pulse/native");
  CHECK_FALSE(sound.qemu.root.network);

  survey = host();
  vmlaunch::tests::PciTree tree;
  vmlaunch::tests::add_laptop(tree);
  survey.pci = survey::look_at_pci(tree.tree());
  const Plan card =
      plan_of(R"({"pci": [{"device": "01:00.0", "functions": "all"}]})", survey, kSudo);
  CHECK(shared_by(card) == "/sys/bus/pci/devices/0000:01:00.0 /sys/bus/pci/devices/0000:01:00.1");
  CHECK_FALSE(card.qemu.root.network);

  const Plan usb =
      plan_of(R"({"usb": [{"device": "046d:c051", "optional": true}]})", host(), kSudo);
  CHECK(shared_by(usb) == "/sys /run/udev");
  CHECK(base::join(usb.qemu.root.hidden, " ") ==
        "/sys/firmware /sys/fs /sys/hypervisor /sys/kernel /sys/module /sys/power");
  CHECK(usb.qemu.root.network);
}

TEST_CASE("plan: a QEMU of its own is seen with what belongs to it", "[plan]") {
  const auto shared = [](const std::string& binary) {
    return shared_by(plan_of(R"({"qemu": {"binary": ")" + binary + "\"}}"));
  };
  CHECK(shared("/opt/qemu/bin/qemu") ==
        "/opt/qemu/bin/qemu /opt/qemu/lib /opt/qemu/lib64 /opt/qemu/share/qemu");
  CHECK(shared("/home/anna/.local/bin/../bin/qemu") ==
        "/home/anna/.local/bin/qemu /home/anna/.local/lib /home/anna/.local/lib64 "
        "/home/anna/.local/share/qemu");
  CHECK(shared("/usr/local/bin/qemu").empty());
  CHECK(shared("/bin/qemu").empty());
  CHECK(shared("/home/anna/qemu").empty());  // else all of her files
}

TEST_CASE("plan: without the sandbox QEMU sees all files, and as root a /dev of its own",
          "[plan]") {
  const std::string config = R"({"sandbox": "off", "kernel": "k", "network": [{"user": {}}]})";
  for (const Identity& identity : {kPlain, kSudo}) {
    const Plan plan = plan_of(config, host(), identity);
    CHECK(plan.qemu.root.whole_host);
    CHECK(plan.qemu.root.network);
    CHECK(value_of(plan, "-kernel") == "/proc/self/fd/10");
    CHECK(plan.qemu.dev.has_value() == identity.privileged);
  }
}

TEST_CASE("plan: arguments of the user's own may need the network", "[plan]") {
  CHECK(plan_of(R"({"qemu": {"extra_args": ["-device", "edu"]}})").qemu.root.network);
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
