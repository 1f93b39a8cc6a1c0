#include "launcher/plan/setup.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "base/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/support/program.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

survey::Survey laptop() {
  vmlaunch::tests::PciTree tree;
  vmlaunch::tests::add_laptop(tree);
  survey::Survey survey = host();
  survey.pci = survey::look_at_pci(tree.tree());
  return survey;
}

Setup setup_of(const std::string& config,
               const survey::Survey& survey = laptop(),
               const User& user = kAnna) {
  return make_setup(load(config), survey, user, "/usr/bin/vmlaunch");
}

/// A file's lines; "none" if there is no such file.
std::string lines_of(const Setup& setup, const std::string& path) {
  const auto found = std::find_if(
      setup.files.begin(), setup.files.end(), [&](const auto& file) { return file.path == path; });
  return found == setup.files.end() ? "none" : base::join(found->lines, "\n");
}

std::vector<std::string> paths_of(const Setup& setup) {
  std::vector<std::string> paths;
  for (const Setup::File& file : setup.files) {
    paths.push_back(file.path);
  }
  return paths;
}

TEST_CASE("setup: a VM without devices of the host needs a cgroup and KVM", "[setup]") {
  const Setup setup = setup_of("{}");
  CHECK(paths_of(setup) == std::vector<std::string>{"/etc/systemd/system/user@1000.service.d/"
                                                    "70-vmlaunch-win10-delegate.conf"});
  CHECK(lines_of(setup, paths_of(setup).front()) ==
        "[Service]\nDelegate=cpu cpuset io memory pids");
  REQUIRE(setup.commands.size() == 2);
  CHECK(setup.commands.front().text == "usermod --append --groups kvm anna");
  CHECK(setup.missed.empty());
  CHECK(setup_of(R"({"accel": "tcg"})").commands.size() == 1);
}

TEST_CASE("setup: a card is taken at boot, opened by the user, and reaches the memory", "[setup]") {
  const Setup setup =
      setup_of(R"({"memory": {"size": "4G"}, "pci": [{"device": "01:00.0", "functions": "all"}]})");
  CHECK(lines_of(setup, "/etc/modprobe.d/70-vmlaunch-win10.conf") ==
        "options vfio-pci ids=10de:10f0,10de:1ba1\nsoftdep nouveau pre: vfio-pci\n"
        "softdep snd_hda_intel pre: vfio-pci");
  CHECK(lines_of(setup, "/etc/modules-load.d/70-vmlaunch-win10.conf") == "vfio-pci");
  CHECK(lines_of(setup, "/etc/udev/rules.d/70-vmlaunch-win10-vfio.rules") ==
        R"(SUBSYSTEM=="vfio", KERNEL!="vfio", OWNER="anna")");
  CHECK(lines_of(setup, "/etc/security/limits.d/70-vmlaunch-win10.conf") ==
        "anna - memlock 5242880");
  CHECK(lines_of(setup, "/etc/systemd/system/user@1000.service.d/70-vmlaunch-win10.conf") ==
        "[Service]\nLimitMEMLOCK=5368709120");
  CHECK(setup.missed.empty());
}

TEST_CASE("setup: a twin of a device that is given is told of", "[setup]") {
  vmlaunch::tests::PciTree tree;
  vmlaunch::tests::add_laptop(tree);
  tree.add("0000:05:00.0",
           {.vendor = 0x8086, .device = 0x1533, .class_code = 0x020000, .group = 9});
  survey::Survey survey = host();
  survey.pci = survey::look_at_pci(tree.tree());
  const Setup setup = setup_of(R"({"pci": [{"device": "02:00.0"}]})", survey);
  CHECK(setup.missed ==
        std::vector<std::string>{"0000:05:00.0 (8086:1533) cannot be told from a device that the "
                                 "VM gets: vfio-pci takes it from the host too"});
}

TEST_CASE("setup: USB devices are opened by what the config says of them", "[setup]") {
  const Setup setup =
      setup_of(R"({"usb": [{"device": "046d:c051"}, {"port": "1-2.3"}, {"address": "1:4"}]})");
  const std::string rule = R"(ACTION!="remove", SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", )";
  CHECK(lines_of(setup, "/etc/udev/rules.d/70-vmlaunch-win10-usb.rules") ==
        rule + R"(ATTR{idVendor}=="046d", ATTR{idProduct}=="c051", OWNER="anna")" + "\n" + rule +
            R"(KERNEL=="1-2.3", OWNER="anna")");
  CHECK(setup.missed ==
        std::vector<std::string>{"the USB device 1:4 has another number at each plugging in: name "
                                 "it by \"device\" or \"port\""});
}

TEST_CASE("setup: huge pages are there from the boot on, each node's", "[setup]") {
  survey::Survey survey = laptop();
  for (const unsigned number : {0U, 1U}) {
    survey::Node node;
    node.number = number;
    node.total = base::ByteSize{32 * base::kGiB};
    node.available = base::ByteSize{30 * base::kGiB};
    node.pools.emplace_back().size = base::ByteSize{2 * base::kMiB};
    survey.nodes.push_back(node);
  }
  const Setup setup =
      setup_of(R"({"memory": {"size": "6146M", "hugepages": "2M", "node": [0, 1]}})", survey);
  CHECK(lines_of(setup, "/etc/tmpfiles.d/70-vmlaunch-win10.conf") ==
        "w /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages - - - - 1537\n"
        "w /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages - - - - 1536");
}

TEST_CASE("setup: module parameters and taps are the host's from the boot on", "[setup]") {
  const Setup setup = setup_of(R"({
    "module_parameters": { "kvm.ignore_msrs": true, "kvm.report_ignored_msrs": false },
    "network": [ { "user": {} }, { "bridge": "br0", "mac": "52:54:00:00:00:01" },
                 { "macvtap": "eth0", "mac": "52:54:00:00:00:02" } ] })");
  CHECK(lines_of(setup, "/etc/modprobe.d/70-vmlaunch-win10-parameters.conf") ==
        "options kvm ignore_msrs=1\noptions kvm report_ignored_msrs=0");
  CHECK(lines_of(setup, "/etc/systemd/network/70-vmlaunch-win10-vmtap1.netdev") ==
        "[NetDev]\nName=vmtap1\nKind=tap\n[Tap]\nUser=anna\nVNetHeader=yes");
  CHECK(lines_of(setup, "/etc/systemd/network/70-vmlaunch-win10-vmtap1.network") ==
        "[Match]\nName=vmtap1\n[Network]\nBridge=br0");
  CHECK(setup.missed == std::vector<std::string>{"a macvtap on eth0 needs root at each start"});
}

TEST_CASE("setup: what keeps a user from a user namespace is lifted", "[setup]") {
  survey::Survey survey = laptop();
  const auto file = [&](survey::NamespaceLimit limit, const std::string& path) {
    survey.namespaces = limit;
    return lines_of(setup_of("{}", survey), path);
  };
  const std::string sysctl = "/etc/sysctl.d/70-vmlaunch-win10.conf";
  CHECK(file(survey::NamespaceLimit::none, sysctl) == "none");
  CHECK(file(survey::NamespaceLimit::forbidden, sysctl) == "kernel.unprivileged_userns_clone = 1");
  CHECK(file(survey::NamespaceLimit::exhausted, sysctl) == "user.max_user_namespaces = 16384");
  CHECK(file(survey::NamespaceLimit::apparmor, "/etc/apparmor.d/vmlaunch") ==
        "abi <abi/4.0>,\ninclude <tunables/global>\n"
        "profile vmlaunch \"/usr/bin/vmlaunch\" flags=(unconfined) {\n  userns,\n}");
}

TEST_CASE("setup: what takes root at each start is told, and no screen is taken at boot",
          "[setup]") {
  survey::Survey survey = laptop();
  survey.session.systemd = true;
  const Setup setup = setup_of(
      R"({"single_gpu": true, "stop_units": ["a.service"], "pci": [{"device": "01:00.0"}]})",
      survey);
  CHECK(setup.missed ==
        std::vector<std::string>{"single_gpu, which ends the desktop, needs root at each start",
                                 "stop_units needs root at each start"});
  CHECK(lines_of(setup, "/etc/modprobe.d/70-vmlaunch-win10.conf") == "none");
}

TEST_CASE("setup: a user whose name no rule could bear is refused", "[setup]") {
  for (const char* name : {"an na", "an\"na", "uid 1880004711", "", "-a"}) {
    INFO(name);
    CHECK_THROWS_AS(setup_of("{}", laptop(), {name, {1000, 1000, {}}}), Failure);
  }
}

TEST_CASE("setup: its text is a script that a shell understands", "[setup]") {
  const std::string config = R"({
    "network": [ { "bridge": "br0", "mac": "52:54:00:00:00:01" } ],
    "usb": [ { "device": "046d:c051" } ],
    "pci": [ { "device": "01:00.0", "functions": "all" } ] })";
  const Setup setup = setup_of(config);
  const vmlaunch::tests::Folder folder;
  const std::string script = folder.write("setup.sh", to_text(setup));
  CHECK(std::system(("sh -n " + script).c_str()) == 0);
  // Below another root it writes what it says.
  std::string text = to_text(setup);
  for (std::size_t at = 0; (at = text.find("/etc/", at)) != std::string::npos; at += 5) {
    text.insert(at, folder.path());
    at += folder.path().size();
  }
  text.resize(text.find("\n# drivers are loaded"));
  folder.write("below.sh", text);
  REQUIRE(std::system(("sh -eu " + folder.file("below.sh")).c_str()) == 0);
  for (const Setup::File& file : setup.files) {
    CHECK(base::read_file(folder.path() + file.path) == base::join(file.lines, "\n") + "\n");
  }
  CHECK(to_json(setup)["files"].size() == setup.files.size());
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
