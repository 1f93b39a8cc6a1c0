#include "launcher/plan/passthrough.hpp"

#include <string>
#include <vector>

#include "base/text.hpp"
#include "launcher/plan/plan.hpp"
#include "launcher/steps/steps.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using tests::PciTree;

const Identity kRoot{true, {"uid 1880000042", {1880000042, 1880000042, {}}}, false};
const Identity kPlain{false, {"anna", {1000, 1000, {}}}, true};

/// What ends each refusal of what a user has no right to.
const std::string kWayOut =
    "\nWhat an administrator can do once, so that it needs no root: vmlaunch setup /vms/win10.json";

config::VmSpec spec_of(const std::string& pci) {
  const std::string path = "/vms/win10.json";
  return config::load(config::Document(path, "{\"name\": \"win10\", \"pci\": " + pci + "}"), path);
}

survey::Survey survey_of(const PciTree& tree) {
  survey::Survey survey;
  survey.cgroup = true;
  survey.pci = survey::look_at_pci(tree.tree());
  return survey;
}

survey::Survey laptop(bool iommu = true) {
  PciTree tree;
  tests::add_laptop(tree, iommu);
  return survey_of(tree);
}

Plan plan_of(const std::string& pci,
             const survey::Survey& survey = laptop(),
             const Identity& identity = kRoot) {
  return make_plan(spec_of(pci), survey, identity, Authority::user);
}

std::string steps_of(const Plan& plan) {
  std::vector<std::string> lines;
  for (const steps::Step& step : plan.steps) {
    lines.push_back(step->describe());
  }
  return base::join(lines, "\n");
}

/// What QEMU sees in its /dev beside what everybody may open.
std::string nodes_of(const Plan& plan) {
  if (!plan.qemu.dev) {
    return "the host's";
  }
  std::string text = base::join(plan.qemu.dev->nodes, " ");
  for (const base::PciAddress& device : plan.qemu.dev->devices) {
    text += ", group of " + base::to_string(device);
  }
  return text;
}

/// Exit code and text of the refusal.
std::string refusal(const std::string& pci,
                    const survey::Survey& survey = laptop(),
                    const Identity& identity = kRoot) {
  return tests::refusal([&] { static_cast<void>(plan_of(pci, survey, identity)); });
}

std::string devices_of(const Plan& plan) {
  std::string text;
  for (std::size_t i = 0; i + 1 < plan.qemu.arguments.size(); ++i) {
    const std::string& value = plan.qemu.arguments[i + 1];
    if (plan.qemu.arguments[i] == "-device") {
      const auto device = config::Json::parse(value);
      text += device.at("driver").get<std::string>() + " " + device.value("host", "") + " " +
              device.at("bus").get<std::string>() + " " + device.at("addr").get<std::string>() +
              (device.value("multifunction", false) ? " multifunction" : "") + "\n";
    }
  }
  return text;
}

TEST_CASE("pci: all functions of a card are bound, and the listed one is given", "[pci]") {
  const Plan plan = plan_of(R"([{"device": "01:00.0"}])");
  CHECK(steps_of(plan) ==
        "make the cgroup vmlaunch-win10\n"
        "load the kernel module vfio-pci\n"
        "keep 0000:01:00.0 awake: power/control on, d3cold_allowed 0\n"
        "keep 0000:01:00.1 awake: power/control on, d3cold_allowed 0\n"
        "reserve 0000:01:00.0 for vfio-pci (driver_override)\n"
        "reserve 0000:01:00.1 for vfio-pci (driver_override)\n"
        "wait until nobody has 0000:01:00.0 open, at most 15s\n"
        "wait until nobody has 0000:01:00.1 open, at most 15s\n"
        "bind 0000:01:00.0 to vfio-pci; it has nouveau\n"
        "bind 0000:01:00.1 to vfio-pci; it has snd_hda_intel\n"
        "see that 0000:01:00.0, 0000:01:00.1 work");
  CHECK(devices_of(plan) ==
        "pcie-root-port  pcie.0 0x1c.0x0 multifunction\n"
        "vfio-pci 0000:01:00.0 port0 0x0.0x0\n");
  REQUIRE(plan.qemu.memlock);
  CHECK(plan.qemu.memlock->bytes == 2 * base::kGiB);
}

TEST_CASE("pci: all functions of a card are given where that is asked, on one port", "[pci]") {
  const std::string both =
      "pcie-root-port  pcie.0 0x1c.0x0 multifunction\n"
      "vfio-pci 0000:01:00.0 port0 0x0.0x0 multifunction\n"
      "vfio-pci 0000:01:00.1 port0 0x0.0x1 multifunction\n";
  CHECK(devices_of(plan_of(R"([{"device": "01:00.0", "functions": "all"}])")) == both);
  CHECK(devices_of(plan_of(R"([{"device": "01:00.1"}, {"device": "01:00.0"}])")) == both);
}

TEST_CASE("pci: each card has a port of its own", "[pci]") {
  CHECK(devices_of(plan_of(R"([{"device": "02:00.0"}, {"device": "01:00.1"}])")) ==
        "pcie-root-port  pcie.0 0x1c.0x0 multifunction\n"
        "vfio-pci 0000:01:00.1 port0 0x0.0x0\n"
        "pcie-root-port  pcie.0 0x1c.0x1 multifunction\n"
        "vfio-pci 0000:02:00.0 port1 0x0.0x0\n");
}

TEST_CASE("pci: every member of a group has its verdict", "[pci]") {
  const Plan plan = plan_of(R"([{"device": "01:00.0"}])");
  REQUIRE(plan.passthrough.groups.size() == 1);
  std::vector<std::string> verdicts;
  for (const GroupMember& member : plan.passthrough.groups[0].members) {
    verdicts.push_back(describe(member));
  }
  CHECK(verdicts == std::vector<std::string>{
                        "0000:00:01.0 bridge",
                        "0000:01:00.0 must bind, has nouveau, the guest gets it",
                        "0000:01:00.1 must bind, has snd_hda_intel",
                    });
}

TEST_CASE("pci: a group that the host uses is refused with the verdict of each member", "[pci]") {
  CHECK(refusal(R"([{"device": "00:1f.3"}])") ==
        "12: Cannot give IOMMU group 11 to the guest: the host uses devices in it, and a group has "
        "one owner\n"
        "  0000:00:1f.0 no driver\n"
        "  0000:00:1f.3 must bind, has snd_hda_intel, the guest gets it\n"
        "  0000:00:1f.4 in use by i801_smbus\n"
        "  to take them too, list them in the config's \"pci\" or set \"group\": \"all\" there; "
        "else put the card into another slot; type: vmlaunch host");
}

TEST_CASE("pci: the whole group is taken where that is asked or all are listed", "[pci]") {
  const std::string steps =
      "make the cgroup vmlaunch-win10\n"
      "load the kernel module vfio-pci\n"
      "keep 0000:00:1f.0 awake: power/control on, d3cold_allowed 0\n"
      "keep 0000:00:1f.3 awake: power/control on, d3cold_allowed 0\n"
      "keep 0000:00:1f.4 awake: power/control on, d3cold_allowed 0\n"
      "reserve 0000:00:1f.3 for vfio-pci (driver_override)\n"
      "reserve 0000:00:1f.4 for vfio-pci (driver_override)\n"
      "wait until nobody has 0000:00:1f.3 open, at most 15s\n"
      "wait until nobody has 0000:00:1f.4 open, at most 15s\n"
      "bind 0000:00:1f.3 to vfio-pci; it has snd_hda_intel\n"
      "bind 0000:00:1f.4 to vfio-pci; it has i801_smbus\n"
      "see that 0000:00:1f.3 work\n"
      "see that 0000:00:1f.4 work";
  CHECK(steps_of(plan_of(R"([{"device": "00:1f.3", "group": "all"}])")) == steps);
  CHECK(steps_of(plan_of(R"([{"device": "00:1f.3"}, {"device": "00:1f.4"}])")) == steps);
}

TEST_CASE("pci: a device that vfio has already is taken as it is", "[pci]") {
  PciTree tree;
  tests::add_laptop(tree);
  tree.bind("0000:02:00.0", "vfio-pci");
  survey::Survey survey = survey_of(tree);
  const unsigned group = *survey.pci.find({0, 2, 0, 0})->iommu_group;
  const std::string nic = R"([{"device": "02:00.0"}])";
  CHECK(steps_of(plan_of(nic, survey)) ==
        "make the cgroup vmlaunch-win10\n"
        "keep 0000:02:00.0 awake: power/control on, d3cold_allowed 0\n"
        "see that 0000:02:00.0 work");
  const std::string node = "vfio/" + std::to_string(group);
  CHECK(nodes_of(plan_of(nic, survey)) == "vfio/vfio, group of 0000:02:00.0");
  // Without root it is enough that node and limit are there.
  CHECK(refusal(nic, survey, kPlain) == "10: Cannot open /dev/" + node +
                                            "; type: sudo chown $USER /dev/" + node +
                                            ", or: sudo vmlaunch …" + kWayOut);
  survey.open_groups = {group};
  survey.memlock_limit = 2 * base::kGiB - 1;
  CHECK(refusal(nic, survey, kPlain) ==
        "10: Cannot lock 2G of memory: the limit is 2147483647; type: sudo vmlaunch …" + kWayOut);
  survey.memlock_limit = 2 * base::kGiB;
  CHECK(steps_of(plan_of(nic, survey, kPlain)) == "make the cgroup vmlaunch-win10");
}

TEST_CASE("pci: a bridge device with a driver is an endpoint of its group", "[pci]") {
  PciTree tree;
  tests::add_laptop(tree);
  tree.bind("0000:00:1f.0", "lpc_ich");
  const survey::Survey survey = survey_of(tree);
  CHECK(refusal(R"([{"device": "00:1f.3"}, {"device": "00:1f.4"}])", survey)
            .find("  0000:00:1f.0 in use by lpc_ich\n") != std::string::npos);
  CHECK(steps_of(plan_of(R"([{"device": "00:1f.3", "group": "all"}])", survey))
            .find("bind 0000:00:1f.0 to vfio-pci; it has lpc_ich\n") != std::string::npos);
  CHECK(refusal(R"([{"device": "00:1f.0"}])", survey).starts_with("10: Cannot give 0000:00:1f.0 "));
}

TEST_CASE("pci: what pci-stub keeps for nobody stands in nobody's way", "[pci]") {
  PciTree tree;
  tests::add_laptop(tree);
  tree.bind("0000:00:1f.4", "pci-stub");
  const Plan plan = plan_of(R"([{"device": "00:1f.3"}])", survey_of(tree));
  CHECK(steps_of(plan).find("bind 0000:00:1f.4") == std::string::npos);
  CHECK(describe(plan.passthrough.groups.at(0).members.at(2)) == "0000:00:1f.4 no driver");
}

TEST_CASE("pci: a virtual function is a device of its own", "[pci]") {
  PciTree tree;
  tests::add_laptop(tree);
  for (const unsigned function : {0U, 1U, 2U}) {
    const std::string address = "0000:02:10." + std::to_string(function);
    tree.add(address,
             {.device = 0x1520,
              .class_code = 0x020000,
              .driver = "igbvf",
              .group = 20 + function,
              .bridge = "0000:00:1c.0"});
    tree.link(tree.device(address) + "/physfn", "../0000:02:00.0");
  }
  for (const char* pci :
       {R"([{"device": "02:10.1"}])", R"([{"device": "02:10.1", "functions": "all"}])"}) {
    INFO(pci);
    const std::string steps = steps_of(plan_of(pci, survey_of(tree)));
    CHECK(steps.find("bind 0000:02:10.1 to vfio-pci; it has igbvf") != std::string::npos);
    CHECK(steps.find("0000:02:10.0") == std::string::npos);
    CHECK(steps.find("0000:02:10.2") == std::string::npos);
  }
}

TEST_CASE("pci: QEMU sees the nodes of the groups that the guest gets, and no others", "[pci]") {
  PciTree tree;
  tests::add_laptop(tree);
  tree.add("0000:02:00.1",
           {.device = 0x1533,
            .class_code = 0x020000,
            .driver = "igb",
            .group = 13,
            .bridge = "0000:00:1c.0"});
  const Plan plan = plan_of(R"([{"device": "02:00.0"}])", survey_of(tree));
  CHECK(steps_of(plan).find("bind 0000:02:00.1 to vfio-pci; it has igb") != std::string::npos);
  CHECK(nodes_of(plan) == "vfio/vfio, group of 0000:02:00.0");
  CHECK(to_text(plan).find(
            "its /dev: null zero full random urandom vfio/vfio vfio/12 and nothing else") !=
        std::string::npos);
}

TEST_CASE("pci: what cannot be given is refused, all of it at once", "[pci]") {
  CHECK(refusal(R"([{"device": "05:00.0"}, {"device": "00:01.0"},
                    {"device": "01:00.0", "expect": "10de:1b81"}])") ==
        "10: Cannot find the PCI device 0000:05:00.0; type: vmlaunch host\n"
        "Cannot give 0000:00:01.0 to the guest: it is a bridge, part of the host's own fabric; "
        "type: vmlaunch host\n"
        "Cannot give 0000:01:00.0 to the guest: it is 10de:1ba1, and the config expects 10de:1b81: "
        "the hardware or its order changed; type: vmlaunch host");
  survey::Survey hidden = laptop();
  hidden.pci.unseen = {"/sys is closed"};
  CHECK(refusal(R"([{"device": "01:00.0"}])", hidden) ==
        "10: Cannot tell what the host uses: /sys is closed; a run looks with its user's rights; "
        "type: ls -ld /sys /sys/bus/pci /sys/kernel/iommu_groups");
  CHECK(refusal(R"([{"device": "01:00.0"}])", laptop(false)) ==
        "10: Cannot give PCI devices to the guest: the host's IOMMU is off\n"
        "Intel: turn on VT-d in the firmware's setup, and add intel_iommu=on iommu=pt to the "
        "kernel's command line, and see that intel_iommu=off is not on the kernel's command line\n"
        "then reboot, and type: vmlaunch host");
  CHECK(refusal(R"([{"device": "01:00.0"}])", laptop(), kPlain) ==
        "10: Cannot bind 0000:01:00.0 to vfio-pci without root; type: sudo vmlaunch …\n"
        "Cannot bind 0000:01:00.1 to vfio-pci without root; type: sudo vmlaunch …" +
            kWayOut);
}

TEST_CASE("pci: ids, a class and a slot choose the device that they match", "[pci]") {
  const std::string one = "vfio-pci 0000:02:00.0 port0 0x0.0x0\n";
  for (const char* selector : {"8086:1533", "class:0200", "02:00.0"}) {
    INFO(selector);
    CHECK(
        devices_of(plan_of(R"([{"device": ")" + std::string(selector) + R"("}])")).ends_with(one));
  }
  CHECK(devices_of(plan_of(R"([{"device": "01:00"}])")) ==
        devices_of(plan_of(R"([{"device": "01:00.0", "functions": "all"}])")));
  CHECK(devices_of(plan_of(R"([{"device": "10de:1ba1", "functions": "all"}])")) ==
        devices_of(plan_of(R"([{"device": "01:00.0", "functions": "all"}])")));
  CHECK(refusal(R"([{"device": "8086:1533", "expect": "10de:1b81"}])")
            .starts_with("10: Cannot give 0000:02:00.0 to the guest: it is 8086:1533, and "));
  CHECK(refusal(R"([{"device": "8086:9999"}, {"device": "class:0108"}])") ==
        "10: Cannot find the PCI device 8086:9999; type: vmlaunch host\n"
        "Cannot find the PCI device class:0108; type: vmlaunch host");
}

TEST_CASE("pci: what matches several devices is refused with all of them", "[pci]") {
  const std::string candidates =
      " means: there are 2\n"
      "  0000:00:02.0 8086:3e9b, driver i915, the firmware's screen\n"
      "  0000:01:00.0 10de:1ba1, driver nouveau\n"
      "  name one of them by its address";
  CHECK(refusal(R"([{"device": "class:0300"}])") ==
        "10: Cannot tell which device \"class:0300\"" + candidates);
  // The first would do, but the second could come to mean another one.
  CHECK(refusal(R"([{"device": ["05:00.0", "class:0300", "02:00.0"]}])") ==
        "10: Cannot tell which device \"class:0300\"" + candidates);
}

TEST_CASE("pci: of several the first that is there and free is chosen", "[pci]") {
  const auto chosen = [](const std::string& pci, const survey::Survey& survey) {
    std::string all;
    for (const auto& slot : plan_of(pci, survey).passthrough.slots) {
      all += base::to_string(slot.front()) + " ";
    }
    return all;
  };
  survey::Survey survey = laptop();
  CHECK(chosen(R"([{"device": ["05:00.0", "02:00.0", "01:00.0"]}])", survey) == "0000:02:00.0 ");
  CHECK(chosen(R"([{"device": "02:00.0"}, {"device": ["02:00.0", "01:00.0"]}])", survey) ==
        "0000:01:00.0 0000:02:00.0 ");
  survey.had = {{{0, 2, 0, 0}, "the VM win7 has it (its guardian is pid 17)"}};
  CHECK(chosen(R"([{"device": ["02:00.0", "01:00.0"]}])", survey) == "0000:01:00.0 ");
  CHECK(refusal(R"([{"device": ["05:00.0", "02:00.0"]}])", survey) ==
        "21: Cannot find a free one of the PCI devices that the config names:\n"
        "  0000:05:00.0: it is not there\n"
        "  0000:02:00.0: the VM win7 has it (its guardian is pid 17)\n"
        "  type: vmlaunch host");
  CHECK(
      refusal(R"([{"device": "02:00.0"}])", survey) ==
      "21: Cannot take 0000:02:00.0: the VM win7 has it (its guardian is pid 17); stop that first");
}

TEST_CASE("pci: what the host needs is refused, all of it at once", "[pci]") {
  survey::Survey survey = laptop();
  survey.uses.uses = {
      {{{0, 2, 0, 0}}, "eth0 has the default route", "type: ip route"},
      {{{0, 2, 0, 0}}, "nvme0n1p1 is mounted on /data", "type: umount /data"},
      {{{0, 0, 2, 0}}, "of a device that stays", "nothing"},
  };
  survey.uses.keyboards = {{{0, 1, 0, 1}}};
  CHECK(refusal(R"([{"device": "02:00.0"}, {"device": "01:00.0"}])", survey) ==
        "10: Cannot take 0000:02:00.0 from the host: eth0 has the default route; type: ip route\n"
        "Cannot take 0000:02:00.0 from the host: nvme0n1p1 is mounted on /data; type: umount "
        "/data\n"
        "Cannot take 0000:01:00.1 from the host: the host's only keyboard is there; plug one into "
        "another controller, to stop the guest with");
}

TEST_CASE("pci: another keyboard, on the chipset or on a device that stays, is enough", "[pci]") {
  const std::string gpu = R"([{"device": "01:00.0"}])";
  survey::Survey survey = laptop();
  survey.uses.keyboards = {{{0, 1, 0, 1}}};
  survey.uses.other_keyboard = true;
  CHECK_NOTHROW(plan_of(gpu, survey));
  survey.uses.other_keyboard = false;
  CHECK_THROWS_AS(plan_of(gpu, survey), Failure);
  survey.uses.keyboards.insert({{{0, 2, 0, 0}}});
  CHECK_NOTHROW(plan_of(gpu, survey));
}

TEST_CASE("pci: the host's last GPU is given only where the config says so", "[pci]") {
  const auto with = [](const std::string& more, const survey::Survey& survey) {
    const std::string path = "/vms/win10.json";
    const config::Document config(
        path, R"({"pci": [{"device": "01:00.0"}, {"device": "00:02.0"}])" + more + "}");
    return make_plan(config::load(config, path), survey, kRoot, Authority::user);
  };
  const auto refused = [&](const survey::Survey& survey) {
    return tests::refusal([&] { static_cast<void>(with("", survey)); });
  };
  const std::string end =
      " from the host: the host would have no GPU left for its own screen; if that is meant, set "
      "\"single_gpu\": true in the config";
  CHECK(refused(laptop()) ==
        "10: Cannot take 0000:00:02.0" + end + "\nCannot take 0000:01:00.0" + end);
  CHECK_NOTHROW(with(R"(, "single_gpu": true)", laptop()));
  PciTree tree;
  tests::add_laptop(tree);
  tree.add("0000:03:00.0",
           {.class_code = 0x030000, .driver = "amdgpu", .group = 20, .bridge = "0000:00:1c.0"});
  CHECK_NOTHROW(with("", survey_of(tree)));
  tree.bind("0000:03:00.0", "vfio-pci");  // for another guest: the host shows nothing there
  CHECK(refused(survey_of(tree)) != "");
}

TEST_CASE("pci: what weakens the walls between groups is told", "[pci]") {
  const std::string nic = R"([{"device": "02:00.0"}])";
  survey::Survey survey = laptop();
  survey.kvm = {true, true, "", true, false};
  CHECK(plan_of(nic, survey).warnings.empty());
  survey.uses.acs_override = true;
  survey.uses.unsafe_interrupts = true;
  CHECK(plan_of(nic, survey).warnings ==
        std::vector<std::string>{
            "pcie_acs_override is on the kernel's command line: that the guest's IOMMU groups (12) "
            "are apart from the host's other devices is a claim only",
            "vfio_iommu_type1's allow_unsafe_interrupts is on: a guest with devices of IOMMU "
            "groups (12) can send the host any interrupt"});
  survey::Survey without = laptop(false);
  without.uses.no_iommu_mode = true;
  CHECK(
      refusal(nic, without)
          .starts_with("10: Cannot give PCI devices to the guest: the host's IOMMU is off; vfio's "
                       "no-IOMMU mode is not used, since a guest could then write to all of the "
                       "host's memory\n"));
}

TEST_CASE("pci: what pci-stub keeps from all is not the guest's, also of a card that is", "[pci]") {
  const Plan plan =
      plan_of(R"([{"device": "01:00.1", "driver": "pci-stub"}, {"device": "01:00.0"}])");
  const std::string steps = steps_of(plan);
  INFO(steps);
  CHECK(steps.find("load the kernel module pci-stub\nload the kernel module vfio-pci") !=
        std::string::npos);
  CHECK(steps.find("reserve 0000:01:00.1 for pci-stub (driver_override)") != std::string::npos);
  CHECK(
      steps.ends_with("bind 0000:01:00.0 to vfio-pci; it has nouveau\n"
                      "bind 0000:01:00.1 to pci-stub; it has snd_hda_intel\n"
                      "see that 0000:01:00.0 work"));
  CHECK(devices_of(plan).ends_with("vfio-pci 0000:01:00.0 port0 0x0.0x0\n"));
  CHECK(to_text(plan).find("0000:01:00.1 must bind, has snd_hda_intel; only kept from all") !=
        std::string::npos);
  CHECK(refusal(R"([{"device": "01:00.1", "driver": "pci-stub"},
                    {"device": "01:00.0", "functions": "all"}])") ==
        "10: Cannot keep 0000:01:00.1 from the guest with pci-stub: the config gives it to the "
        "guest too");
}

TEST_CASE("pci: a whole card is found anew before it is bound", "[pci]") {
  const std::string card = R"([{"device": "01:00.0", "rescan": true},
                               {"device": "01:00.1", "rescan": true}])";
  const std::string steps = steps_of(plan_of(card));
  INFO(steps);
  CHECK(steps.find("wait until nobody has 0000:01:00.0 open, at most 15s\n"
                   "wait until nobody has 0000:01:00.1 open, at most 15s\n"
                   "remove 0000:01:00.0, 0000:01:00.1 and find them anew, with their drivers\n"
                   "keep 0000:01:00.0 awake") != std::string::npos);
  CHECK(
      steps.ends_with("bind 0000:01:00.1 to vfio-pci; it has snd_hda_intel\n"
                      "see that 0000:01:00.0, 0000:01:00.1 work"));
  // The host's driver has made its framebuffer again.
  survey::Survey screen = laptop();
  screen.screen.consoles = {{0, 1, 0, 0}};
  const std::string with_console = steps_of(plan_of(card, screen));
  INFO(with_console);
  CHECK(with_console.find("with their drivers\ntake the host's console off") != std::string::npos);
  CHECK(refusal(card, laptop(), kPlain)
            .ends_with("Cannot find 0000:01:00.0 anew without root; type: sudo vmlaunch …" +
                       kWayOut));
  CHECK(refusal(R"([{"device": "00:1f.3", "group": "all", "rescan": true}])") ==
        "10: Cannot find 0000:00:1f.3 anew: it is on a root bus, whose addresses are the "
        "firmware's; leave \"rescan\" out");
}

survey::Survey with_kvm() {
  survey::Survey survey = laptop();
  survey.kvm = {true, true, "", true, false};
  return survey;
}

// ---- reset --------------------------------------------------------------------------------------

TEST_CASE("pci: how each card can be reset is planned, with what the config allows", "[pci]") {
  const Plan plan = plan_of(R"([{"device": "01:00.0", "on_no_reset": ["rescan"]},
                                {"device": "02:00.0"}])");
  REQUIRE(plan.passthrough.cards.size() == 2);
  CHECK(describe(plan.passthrough.cards[0]) ==
        "0000:01:00.0, 0000:01:00.1: hot reset of its bus, all functions together");
  CHECK(plan.passthrough.cards[0].on_no_reset.rungs == std::set{config::ResetRung::rescan});
  CHECK(describe(plan.passthrough.cards[1]) == "0000:02:00.0: reset of its own (flr)");
  CHECK(plan.steps.back() ==
        steps::reset_card({{0, 2, 0, 0}}, plan.passthrough.cards[1].on_no_reset));
  CHECK(to_text(plan).find("0000:02:00.0: reset of its own (flr)") != std::string::npos);
  CHECK(to_json(plan)["resets"][0]["reset"] == "hot");
}

TEST_CASE("pci: a card without a reset is warned of, or refused", "[pci]") {
  const std::string words =
      "0000:01:00.0: no reset: a hot reset of the bus would also reset 0000:01:00.1 (driver "
      "snd_hda_intel)";
  const std::string kept = R"(, {"device": "01:00.1", "driver": "pci-stub"}])";
  CHECK(plan_of(R"([{"device": "01:00.0"})" + kept, with_kvm()).warnings ==
        std::vector<std::string>{words +
                                 "; a guest that crashes or is ended may leave it unusable until "
                                 "the host is powered off"});
  CHECK(refusal(R"([{"device": "01:00.0", "on_no_reset": "refuse"})" + kept) ==
        "10: Cannot give " + words +
            "; the config's on_no_reset refuses that; type: vmlaunch host");
}

TEST_CASE("pci: cards that vendor-reset serves are reset by it, where it is there", "[pci]") {
  PciTree tree;
  tests::add_laptop(tree, true);
  tree.add("0000:02:00.0",
           {.vendor = 0x1002,
            .device = 0x67df,
            .class_code = 0x030000,
            .driver = "amdgpu",
            .group = 12,
            .reset = "bus",
            .bridge = "0000:00:1c.0"});
  survey::Survey survey = survey_of(tree);
  survey.kvm = with_kvm().kvm;
  const std::string card = R"([{"device": "02:00.0"}])";
  CHECK(plan_of(card, survey).warnings ==
        std::vector<std::string>{
            "0000:02:00.0 is of a kind that often does not come back from a guest; the kernel "
            "module vendor-reset has a way for it, and is not installed"});
  survey.vendor_reset = true;
  const Plan plan = plan_of(card, survey);
  CHECK(plan.warnings.empty());
  // Loaded before anything is reset.
  const std::string all = steps_of(plan);
  CHECK(all.find("load the kernel module vendor-reset") < all.find("bind 0000:02:00.0"));
  CHECK(all.find("in the way of its own") > all.find("bind 0000:02:00.0"));
  CHECK(all.find("in the way of its own") < all.find("see that 0000:02:00.0 work"));
}

TEST_CASE("pci: of the firmware's screen it is told that its ROM was used", "[pci]") {
  PciTree tree;
  tests::add_laptop(tree, true);
  tree.write(tree.device("0000:01:00.0") + "/boot_vga", "1\n");
  survey::Survey survey = survey_of(tree);
  survey.kvm = with_kvm().kvm;
  const auto warned = [&](const std::string& more) {
    const std::string pci = R"([{"device": "01:00.0")" + more + "}]";
    const std::vector<std::string> warnings = plan_of(pci, survey).warnings;
    return !warnings.empty() &&
           warnings[0].find("its ROM is what that left of it") != std::string::npos;
  };
  CHECK(warned(""));
  CHECK_FALSE(warned(R"(, "rom": "gpu.rom")"));
  CHECK_FALSE(warned(R"(, "rombar": false)"));
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
