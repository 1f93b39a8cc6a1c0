#include "launcher/plan/setup.hpp"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "base/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/hosts.hpp"
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
                                                    "70-vmlaunch-delegate.conf"});
  CHECK(lines_of(setup, paths_of(setup).front()) ==
        "[Service]\nDelegate=cpu cpuset io memory pids");
  REQUIRE(setup.commands.size() == 2);
  CHECK(setup.commands.front().text == "usermod --append --groups kvm anna");
  CHECK(setup.missed.empty());
  CHECK(setup_of(R"({"accel": "tcg"})").commands.size() == 1);
}

TEST_CASE("setup: real time on CPUs that the host is kept off takes limits, and a setting",
          "[setup]") {
  survey::Survey survey = laptop();
  for (unsigned number = 0; number < 4; ++number) {
    survey::Cpu cpu;
    cpu.number = number;
    cpu.siblings = {number};
    survey.host_cpus.list.push_back(cpu);
  }
  const std::string config = R"({"cpu": {"cores": 2, "pin": "2-3"}})";
  CHECK(paths_of(setup_of(config, survey)).size() == 1);
  survey.host_cpus.isolated = {2, 3};
  const Setup setup = setup_of(config, survey);
  CHECK(lines_of(setup, "/etc/security/limits.d/70-vmlaunch-anna-rtprio.conf") ==
        "anna - rtprio 1");
  CHECK(lines_of(setup, "/etc/systemd/system/user@1000.service.d/70-vmlaunch-rtprio.conf") ==
        "[Service]\nLimitRTPRIO=1");
  const std::string sysctl = "/etc/sysctl.d/70-vmlaunch-win10-realtime.conf";
  CHECK(lines_of(setup, sysctl) == "kernel.sched_rt_runtime_us = -1");
  survey.realtime.throttled = false;
  CHECK(lines_of(setup_of(config, survey), sysctl) == "none");
}

TEST_CASE("setup: a card is taken at boot, opened by the user, and reaches the memory", "[setup]") {
  const Setup setup =
      setup_of(R"({"memory": {"size": "4G"}, "pci": [{"device": "01:00.0", "functions": "all"}]})");
  const std::string pci = "/etc/udev/rules.d/70-vmlaunch-win10-pci.rules";
  const auto taken = [](const std::string& address) {
    return "ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"" + address +
           "\", ATTR{driver_override}=\"vfio-pci\", RUN{builtin}+=\"kmod load vfio-pci\", "
           "RUN+=\"/bin/sh -c 'echo %k > /sys/bus/pci/drivers_probe'\"\n";
  };
  CHECK(lines_of(setup, pci) ==
        taken("0000:01:00.0") + taken("0000:01:00.1") +
            "SUBSYSTEM==\"vfio\", KERNEL==\"[0-9]*\", PROGRAM==\"/usr/bin/test -e "
            "/sys/kernel/iommu_groups/%k/devices/0000:01:00.0\", OWNER=\"anna\"");
  CHECK(lines_of(setup, "/etc/security/limits.d/70-vmlaunch-anna.conf") ==
        "anna - memlock 5242880");
  CHECK(lines_of(setup, "/etc/systemd/system/user@1000.service.d/70-vmlaunch-memlock.conf") ==
        "[Service]\nLimitMEMLOCK=5368709120");
  CHECK(setup.missed.empty());

  // Once they are taken it says the same.
  vmlaunch::tests::PciTree tree;
  vmlaunch::tests::add_laptop(tree);
  tree.bind("0000:01:00.0", "vfio-pci");
  tree.bind("0000:01:00.1", "vfio-pci");
  survey::Survey survey = host();
  survey.pci = survey::look_at_pci(tree.tree());
  CHECK(lines_of(setup_of(R"({"pci": [{"device": "01:00.0", "functions": "all"}]})", survey),
                 pci) == lines_of(setup, pci));
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
  const std::string tap =
      "vm" + base::hex(base::fingerprint("win10") >> 32U, 8) + "n1";  // of this VM alone
  CHECK(tap.size() <= 15);
  CHECK(lines_of(setup, "/etc/modprobe.d/70-vmlaunch-win10-parameters.conf") ==
        "options kvm ignore_msrs=1\noptions kvm report_ignored_msrs=0");
  CHECK(lines_of(setup, "/etc/systemd/network/70-vmlaunch-win10-" + tap + ".netdev") ==
        "[NetDev]\nName=" + tap + "\nKind=tap\n[Tap]\nUser=anna\nVNetHeader=yes");
  CHECK(lines_of(setup, "/etc/systemd/network/70-vmlaunch-win10-" + tap + ".network") ==
        "[Match]\nName=" + tap + "\n[Link]\nRequiredForOnline=no\n[Network]\nBridge=br0");
  CHECK(setup.missed == std::vector<std::string>{"a macvtap on eth0 needs root at each start"});
}

TEST_CASE("setup: what keeps a user from a user namespace is lifted", "[setup]") {
  survey::Survey survey = laptop();
  const auto file = [&](const survey::NamespaceLimits& limits,
                        const std::string& path,
                        const std::string& program = "/usr/bin/vmlaunch") {
    survey.namespaces = limits;
    return lines_of(make_setup(load("{}"), survey, kAnna, program), path);
  };
  const std::string sysctl = "/etc/sysctl.d/70-vmlaunch-win10.conf";
  const std::string profile = "/etc/apparmor.d/vmlaunch";
  CHECK(file({}, sysctl) == "none");
  CHECK(file({false, true, false}, sysctl) == "kernel.unprivileged_userns_clone = 1");
  CHECK(file({true, true, true}, sysctl) ==
        "kernel.unprivileged_userns_clone = 1\nuser.max_user_namespaces = 16384");
  CHECK(file({true, false, false}, profile) ==
        "abi <abi/4.0>,\ninclude <tunables/global>\n"
        "profile vmlaunch /usr/bin/vmlaunch flags=(unconfined) {\n  userns,\n}");
  for (const char* program :
       {"/home/anna/vmlaunch", "/usr/bin/a b", "/usr/bin/x\nEND\n", "/usr/*"}) {
    INFO(program);
    CHECK(file({true, false, false}, profile, program) == "none");
  }
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
  CHECK(lines_of(setup, "/etc/udev/rules.d/70-vmlaunch-win10-pci.rules") == "none");
  survey.block_devices = {"/dev/sdz"};
  CHECK(setup_of(R"({"run_as": "berta"})", survey).missed.size() == 2);
  CHECK(setup_of(R"({"run_as": "anna"})", survey).missed.size() == 1);
}

TEST_CASE("setup: what is about the whole host's CPUs is root's", "[setup]") {
  survey::Survey survey = laptop();
  vmlaunch::tests::PciTree built;
  vmlaunch::tests::add_two_socket_server(built);
  const base::Tree tree = built.tree();
  survey::Reader reader(tree);
  survey.host_cpus = survey::look_at_cpus(reader);
  const Setup setup = setup_of(
      R"({"cpu": {"pin": "auto", "isolate": true, "weight": 500, "halt_polling": false}})", survey);
  CHECK(setup.missed ==
        std::vector<std::string>{
            "cpu.isolate, which is about what the whole host does, needs root at each start",
            "cpu.halt_polling needs root at each start",
            "cpu.weight needs root at each start"});
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
  text.resize(text.find("\n# whose members"));
  folder.write("below.sh", text);
  REQUIRE(std::system(("sh -eu " + folder.file("below.sh")).c_str()) == 0);
  for (const Setup::File& file : setup.files) {
    CHECK(base::read_file(folder.path() + file.path) == base::join(file.lines, "\n") + "\n");
  }
  CHECK(to_json(setup)["files"].size() == setup.files.size());
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
