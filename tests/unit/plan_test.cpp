#include "launcher/plan/plan.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/config/effective.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace std::chrono_literals;
using config::Json;
using config::VmSpec;

VmSpec load(const std::string& text, const std::string& path = "/vms/win10.json") {
  return config::load(config::Document(path, text), path);
}

const User kAnna{"anna", {1000, 1001, {1001, 27, 106}}};
const User kBerta{"berta", {2000, 2001, {2001, 106}}};
const User kRoot{"root", {0, 0, {0}}};
const User kUnused{"uid 1880004711", {1880004711, 1880004711, {}}};

const Identity kPlain{false, kAnna, true};
const Identity kSudo{true, kAnna, true};
const Identity kPureRoot{true, kUnused, false};

survey::Survey host() {
  survey::Survey survey;
  survey.cgroup = true;
  survey.kvm.node = true;
  survey.kvm.usable_by_caller = true;
  survey.kvm.vendor_module = true;
  survey.uefi = survey::Uefi{"/usr/share/code.fd", "/usr/share/vars.fd"};
  return survey;
}

survey::Survey without_kvm() {
  survey::Survey survey = host();
  survey.kvm = {};
  return survey;
}

Plan plan_of(const std::string& config,
             const survey::Survey& survey = host(),
             const Identity& identity = kPlain) {
  return make_plan(load(config), survey, identity, Authority::user);
}

/// The argument that follows `option`, wherever it stands.
std::vector<std::string> values_of(const Plan& plan, const std::string& option) {
  std::vector<std::string> values;
  const std::vector<std::string>& arguments = plan.qemu.arguments;
  for (std::size_t i = 0; i + 1 < arguments.size(); ++i) {
    if (arguments[i] == option) {
      values.push_back(arguments[i + 1]);
    }
  }
  return values;
}

std::string value_of(const Plan& plan, const std::string& option) {
  return base::join(values_of(plan, option), " | ");
}

/// The slot of each device that has one.
std::map<std::string, std::string> slots(const Plan& plan) {
  std::map<std::string, std::string> slots;
  for (const std::string& value : values_of(plan, "-device")) {
    const Json device = Json::parse(value);
    if (device.contains("addr")) {
      slots[device.at("id")] = device.at("addr");
    }
  }
  return slots;
}

/// "name uid:gid[,group…]", or what was refused.
std::string qemu_user(const survey::Survey& survey, const Identity& identity, Authority authority) {
  Plan plan;
  const std::string refused =
      tests::refusal([&] { plan = make_plan(load("{}"), survey, identity, authority); });
  if (refused != "nothing") {
    return refused;
  }
  const QemuUser& user = plan.qemu.user;
  std::string text = user.name;
  if (user.credentials) {
    text +=
        " " + std::to_string(user.credentials->uid) + ":" + std::to_string(user.credentials->gid);
    for (const gid_t group : user.credentials->groups) {
      text += "," + std::to_string(group);
    }
  }
  return text;
}

TEST_CASE("plan: QEMU runs as whom caller, run_as and owner of the config agree on", "[plan]") {
  const std::string anna = "anna 1000:1001";
  const std::string own = "a uid of its own";
  const std::string berta = "berta 2000:2001";
  const std::string needs_root =
      ", which the config's run_as asks for, without root; type: sudo vmlaunch …";
  const std::string not_hers =
      ": a config of anna's may only name its owner in run_as; let root own it: chown root CONFIG";
  const std::string not_its =
      ": a config of uid 1880004711's may only name its owner in run_as; let root own it: chown "
      "root CONFIG";
  const std::string never_root = "10: Cannot run QEMU as root: name another user in run_as";
  const std::string with_groups = anna + ",1001,27,106";
  struct Row {
    const char* name;
    const Identity& identity;
    std::optional<User> run_as;
    std::string of_user;
    std::string of_root;
  };
  for (const Row& row : {
           Row{"plain, nobody named", kPlain, std::nullopt, with_groups, with_groups},
           Row{"plain, self named", kPlain, kAnna, with_groups, with_groups},
           Row{"plain, other named",
               kPlain,
               kBerta,
               "10: Cannot run QEMU as berta" + needs_root,
               "10: Cannot run QEMU as berta" + needs_root},
           Row{"plain, root named",
               kPlain,
               kRoot,
               "10: Cannot run QEMU as root" + needs_root,
               "10: Cannot run QEMU as root" + needs_root},
           Row{"sudo or --as, nobody named", kSudo, std::nullopt, anna, anna},
           Row{"sudo or --as, self named", kSudo, kAnna, anna, anna},
           Row{"sudo or --as, other named",
               kSudo,
               kBerta,
               "10: Cannot run QEMU as berta" + not_hers,
               berta},
           Row{"sudo or --as, root named",
               kSudo,
               kRoot,
               "10: Cannot run QEMU as root" + not_hers,
               never_root},
           Row{"pure root, nobody named", kPureRoot, std::nullopt, own, own},
           Row{"pure root, self named",
               kPureRoot,
               kUnused,
               "uid 1880004711 1880004711:1880004711",
               "uid 1880004711 1880004711:1880004711"},
           Row{"pure root, other named",
               kPureRoot,
               kBerta,
               "10: Cannot run QEMU as berta" + not_its,
               berta},
           Row{"pure root, root named",
               kPureRoot,
               kRoot,
               "10: Cannot run QEMU as root" + not_its,
               never_root},
       }) {
    INFO(row.name);
    survey::Survey survey = host();
    survey.run_as = row.run_as;
    CHECK(qemu_user(survey, row.identity, Authority::user) == row.of_user);
    CHECK(qemu_user(survey, row.identity, Authority::root) == row.of_root);
  }
}

TEST_CASE("plan: as root QEMU has a /dev of its own, with KVM if it is used", "[plan]") {
  CHECK(plan_of("{}").qemu.dev == std::nullopt);
  CHECK(plan_of("{}", host(), kSudo).qemu.dev == Dev{{"kvm"}, {}, {}});
  CHECK(plan_of("{}", without_kvm(), kPureRoot).qemu.dev == Dev{});
}

/// A host with a bridge, a card, a wireless card and a tap.
survey::Survey linked() {
  survey::Survey survey = host();
  survey.links["br0"] = {true, true, false, false, true};
  survey.links["eth0"] = {true, false, false, false, false};
  survey.links["wlan0"] = {true, false, false, true, true};
  survey.links["tap0"] = {true, false, true, false, true};
  survey.vhost_net = true;
  return survey;
}

TEST_CASE("plan: a NIC's tap reaches QEMU by descriptor, with vhost where that is there",
          "[plan]") {
  const std::string config =
      R"({"network": [{"user": {}}, {"bridge": "br0"}, {"tap": "tap0", "model": "e1000e"}]})";
  const Plan plan = plan_of(config, linked(), kSudo);
  CHECK(value_of(plan, "-netdev") ==
        R"({"id":"net0","type":"user"} | )"
        R"({"fd":"258","id":"net1","type":"tap","vhost":true,"vhostfd":"259"} | )"
        R"({"fd":"260","id":"net2","type":"tap"})");
  CHECK(plan.warnings.empty());
  survey::Survey survey = linked();
  survey.vhost_net = false;
  const Plan slow = plan_of(config, survey, kSudo);
  CHECK(value_of(slow, "-netdev").find("vhost") == std::string::npos);
  CHECK(
      base::join(slow.warnings, "\n") ==
      "NIC 1 is slower than it could be: there is no /dev/vhost-net for this run; to change that: "
      "modprobe vhost_net");
}

TEST_CASE("plan: a link that cannot serve is refused with the reason, all of them at once",
          "[plan]") {
  const auto refused = [](const std::string& nics, const Identity& identity = kSudo) {
    return tests::refusal(
        [&] { static_cast<void>(plan_of(R"({"network": [)" + nics + "]}", linked(), identity)); });
  };
  CHECK(
      refused(R"({"bridge": "br1"}, {"bridge": "eth0"})") ==
      "10: Cannot find the network link br1; type: ip -br link\n"
      "Cannot use eth0 as a bridge: it is another kind of link; type: ip -d link show type bridge");
  CHECK(refused(R"({"tap": "br0"})") ==
        "10: Cannot use br0 as a tap: it is another kind of link; type: ip -d link show br0");
  CHECK(refused(R"({"macvtap": "wlan0"})") ==
        "10: Cannot make a macvtap on wlan0: it is wireless, and carries one MAC address only; "
        "type: ip -br link");
  CHECK(refused(R"({"bridge": "br0"})", kPlain).find("without root; type: sudo vmlaunch …") !=
        std::string::npos);
  CHECK(refused(R"({"macvtap": "eth0"})", kPlain).find("without root") != std::string::npos);
  CHECK(refused(R"({"tap": "tap0"})", kPlain) == "nothing");
}

TEST_CASE("plan: a bridge whose address would change is a warning", "[plan]") {
  survey::Survey survey = linked();
  survey.links["br0"].steady = false;
  CHECK(
      base::join(plan_of(R"({"network": [{"bridge": "br0"}]})", survey, kSudo).warnings, "\n") ==
      "the address of br0, which has no port, changes with this VM's tap; to change that: ip link "
      "set br0 address 52:54:00:…");
}

TEST_CASE("plan: a link that is down is a warning", "[plan]") {
  CHECK(base::join(plan_of(R"({"network": [{"macvtap": "eth0"}]})", linked(), kSudo).warnings,
                   "\n") ==
        "NIC 0 reaches nothing: eth0 is down; to change that: ip link set eth0 up");
}

TEST_CASE("plan: a NIC in the host's network has the same address at each start", "[plan]") {
  const auto mac = [](const std::string& config, std::size_t nic) {
    return load(config).network.at(nic).mac.value_or(config::MacAddress{"QEMU's"}).text;
  };
  const std::string two = R"({"network": [{"bridge": "br0"}, {"tap": "tap0"}, {"user": {}}]})";
  CHECK(mac(two, 0) == mac(two, 0));
  CHECK(mac(two, 0).starts_with("52:54:00:"));
  CHECK(mac(two, 0) != mac(two, 1));
  CHECK(mac(two, 2) == "QEMU's");
  CHECK(mac(R"({"name": "other", "network": [{"bridge": "br0"}]})", 0) != mac(two, 0));
}

TEST_CASE("plan: extra arguments need rights that are the caller's own or root's", "[plan]") {
  const std::string config = R"({"qemu": {"extra_args": ["-device", "edu"]}})";
  const auto planned = [&](const Identity& identity, Authority authority) {
    std::string last;
    const std::string refused = tests::refusal([&] {
      const Plan plan = make_plan(load(config), host(), identity, authority);
      last =
          plan.qemu.arguments.at(plan.qemu.arguments.size() - 2) + " " + plan.qemu.arguments.back();
    });
    return refused == "nothing" ? last : refused;
  };
  CHECK(planned(kPlain, Authority::user) == "-device edu");
  CHECK(planned(kPlain, Authority::root) == "-device edu");
  CHECK(planned(kSudo, Authority::root) == "-device edu");
  CHECK(planned(kPureRoot, Authority::root) == "-device edu");
  CHECK(planned(kSudo, Authority::user) ==
        "10: Cannot use qemu.extra_args of a config of anna's in a run as root; let root own it: "
        "chown root CONFIG");
  CHECK(planned(kPureRoot, Authority::user) ==
        "10: Cannot use qemu.extra_args of a config of uid 1880004711's in a run as root; let root "
        "own it: chown root CONFIG");
}

TEST_CASE("plan: a config without extra arguments needs nobody's leave", "[plan]") {
  CHECK_NOTHROW(make_plan(load("{}"), host(), kSudo, Authority::user));
}

TEST_CASE("plan: the CPU model follows the accelerator, and \"host\" becomes \"max\" in software",
          "[plan]") {
  const std::string warning = "CPU model \"host\" needs KVM: \"max\" is used instead";
  struct Row {
    const char* model;
    const char* with_kvm;
    const char* in_software;
    bool warned;
  };
  for (const Row& row : {
           Row{"", "host", "max", false},
           Row{"host", "host", "max", true},
           Row{"host,-vmx,migratable=off",
               "host,-vmx,migratable=off",
               "max,-vmx,migratable=off",
               true},
           Row{"hostile", "hostile", "hostile", false},
           Row{"max", "max", "max", false},
           Row{"qemu64,+host", "qemu64,+host", "qemu64,+host", false},
       }) {
    INFO(row.model);
    const std::string model = row.model;
    const std::string cpu = model.empty() ? "" : R"("cpu": {"model": ")" + model + "\"},";
    const Plan kvm = plan_of("{" + cpu + R"("accel": "kvm"})");
    CHECK(value_of(kvm, "-cpu") == row.with_kvm);
    CHECK(kvm.warnings.empty());
    const Plan tcg = plan_of("{" + cpu + R"("accel": "tcg"})");
    CHECK(value_of(tcg, "-cpu") == row.in_software);
    CHECK(tcg.warnings == (row.warned ? std::vector{warning} : std::vector<std::string>{}));
  }
}

TEST_CASE("plan: the accelerator's warning comes before the CPU model's", "[plan]") {
  const Plan plan = plan_of(R"({"cpu": {"model": "host"}})", without_kvm());
  CHECK(plan.accel == "tcg");
  CHECK(value_of(plan, "-accel") == "tcg");
  CHECK(plan.warnings ==
        std::vector<std::string>{
            "there is no /dev/kvm: the guest runs in software (TCG), many times slower; to change "
            "that: modprobe kvm_intel (or kvm_amd), with virtualisation enabled in the firmware",
            "CPU model \"host\" needs KVM: \"max\" is used instead"});
}

TEST_CASE("plan: a device keeps its slot when devices of another kind come or go", "[plan]") {
  const auto config = [&](std::size_t disks, std::size_t nics, bool screen) {
    Json json = {{"disks", Json::array()}, {"network", Json::array()}};
    for (std::size_t i = 0; i < disks; ++i) {
      json["disks"].push_back({{"path", "d" + std::to_string(i)}, {"format", "raw"}});
    }
    for (std::size_t i = 0; i < nics; ++i) {
      json["network"].push_back({{"user", Json::object()}});
    }
    if (screen) {
      json["display"] = {{"vnc", "127.0.0.1:5900"}};
    }
    return json.dump();
  };
  const std::map<std::string, std::string> all = slots(plan_of(config(16, 8, true)));
  for (const auto& [id, slot] : {std::pair("screen", "0x2"),
                                 std::pair("usb", "0x3"),
                                 std::pair("disk0-device", "0x4"),
                                 std::pair("disk15-device", "0x13"),
                                 std::pair("nic0", "0x14"),
                                 std::pair("nic7", "0x1b")}) {
    INFO(id);
    CHECK(all.at(id) == slot);
  }
  CHECK(all.size() == 26);
  for (const auto& [disks, nics, screen] : {std::tuple(0U, 1U, false),
                                            std::tuple(1U, 1U, false),
                                            std::tuple(2U, 1U, true),
                                            std::tuple(0U, 3U, true),
                                            std::tuple(16U, 0U, false),
                                            std::tuple(0U, 0U, true)}) {
    INFO(disks << " disks, " << nics << " NICs" << (screen ? ", a screen" : ""));
    const std::map<std::string, std::string> some = slots(plan_of(config(disks, nics, screen)));
    CHECK(some.size() == disks + nics + (screen ? 2U : 0U));
    CHECK(std::all_of(some.begin(), some.end(), [&](const auto& device) {
      return all.at(device.first) == device.second;
    }));
  }
}

TEST_CASE("plan: no two devices share a slot", "[plan]") {
  for (const char* machine : {"q35", "pc"}) {
    INFO(machine);
    Json json = {{"machine", machine},
                 {"disks", Json::array()},
                 {"network", Json::array()},
                 {"display", {{"vnc", "127.0.0.1:5900"}}}};
    for (int i = 0; i < 16; ++i) {
      json["disks"].push_back({{"path", "d" + std::to_string(i)}, {"format", "raw"}});
    }
    for (int i = 0; i < 8; ++i) {
      json["network"].push_back({{"user", Json::object()}});
    }
    std::vector<std::string> taken;
    for (const auto& [id, slot] : slots(plan_of(json.dump()))) {
      taken.push_back(slot);
    }
    std::sort(taken.begin(), taken.end());
    CHECK(std::adjacent_find(taken.begin(), taken.end()) == taken.end());
    // The chipset's own, on one machine type or the other.
    for (const char* used : {"0x0", "0x1", "0x1f"}) {
      CHECK_FALSE(std::binary_search(taken.begin(), taken.end(), used));
    }
  }
}

TEST_CASE("plan: no path stands in an argument, whatever it is made of", "[plan]") {
  for (const std::string& odd : {std::string("plain"),
                                 std::string("a,b=c"),
                                 std::string("quote\"s'"),
                                 std::string("new\nline"),
                                 std::string("a space"),
                                 std::string("back\\slash"),
                                 std::string("-option"),
                                 std::string("per%cent$HOME`id`"),
                                 std::string("/dev/fdset/99")}) {
    INFO(odd);
    const std::string folder = "/odd " + odd;
    const Json json = {
        {"kernel", "kernel-" + odd},
        {"initrd", "initrd-" + odd},
        {"firmware",
         {{"uefi", true},
          {"vars", "vars-" + odd},
          {"code", "code-" + odd},
          {"template", "template-" + odd}}},
        {"disks",
         {{{"path", "disk0-" + odd}, {"format", "raw"}},
          {{"path", "disk1-" + odd}, {"format", "qcow2"}, {"readonly", true}}}},
        {"serial", {{"file", "serial-" + odd}}},
        {"name", "vm"},
    };
    const VmSpec spec = load(json.dump(), folder + "/vm.json");
    const Plan plan = make_plan(spec, host(), kSudo, Authority::user);
    std::vector<std::string> paths;
    for (const FileUse& file : plan.files) {
      paths.push_back(file.path);
    }
    const std::string start = folder + "/";
    CHECK(paths == std::vector<std::string>{start + "kernel-" + odd,
                                            start + "initrd-" + odd,
                                            start + "code-" + odd,
                                            start + "vars-" + odd,
                                            start + "disk0-" + odd,
                                            start + "disk1-" + odd,
                                            start + "serial-" + odd});
    CHECK(plan.files.at(3).template_path == start + "template-" + odd);
    for (const std::string& argument : plan.qemu.arguments) {
      INFO(argument);
      CHECK(argument.find("odd ") == std::string::npos);
      CHECK((odd == "plain" || argument.find(odd) == std::string::npos));
    }
  }
}

TEST_CASE("plan: a block device is opened as one, a file as a file", "[plan]") {
  const VmSpec spec = load(R"({"disks": [{"path": "/dev/disk/by-id/a", "format": "raw"},
                                         {"path": "b.qcow2", "format": "qcow2", "readonly": true},
                                         {"path": "/dev/c", "format": "qcow2"}]})");
  survey::Survey survey = host();
  survey.block_devices = {"/dev/disk/by-id/a", "/dev/c"};
  const Plan plan = make_plan(spec, survey, kPlain, Authority::user);
  const std::vector<std::string> values = values_of(plan, "-blockdev");
  const auto node = [&](std::size_t i) { return Json::parse(values.at(i)); };
  REQUIRE(values.size() == 6);
  CHECK(node(0) == Json::parse(R"({"driver": "host_device", "filename": "/dev/fdset/10",
      "node-name": "disk0-file", "read-only": false, "discard": "unmap"})"));
  CHECK(node(1) == Json::parse(R"({"driver": "raw", "file": "disk0-file", "node-name": "disk0",
      "read-only": false, "discard": "unmap"})"));
  CHECK(node(2) == Json::parse(R"({"driver": "file", "filename": "/dev/fdset/11",
      "node-name": "disk1-file", "read-only": true, "discard": "unmap"})"));
  CHECK(node(3) == Json::parse(R"({"driver": "qcow2", "file": "disk1-file", "node-name": "disk1",
      "read-only": true, "discard": "unmap", "backing": null})"));
  CHECK(node(4).at("driver") == "host_device");
  CHECK(node(5).at("backing") == nullptr);
}

/// The whole of a FileUse in a line.
std::string line(const FileUse& file) {
  return std::to_string(file.fd) + " " + file.purpose + " " + file.path + " (" +
         to_string(file.access) + ", made: " + to_string(file.create) +
         (file.template_path.empty() ? "" : " " + file.template_path) + ")" +
         (file.reopened ? " reopened" : "") + (file.is_qcow2 ? " qcow2" : "") +
         (file.direct ? " direct" : "");
}

const char* const kAll = R"({
  "accel": "tcg", "machine": "q35", "cpu": {"sockets": 2, "cores": 3, "threads": 4},
  "memory": {"size": "2560M"},
  "kernel": "k", "initrd": "i", "append": "console=ttyS0 a,b",
  "firmware": {"uefi": true, "vars": "v"},
  "disks": [{"path": "d0", "format": "qcow2"}, {"path": "d1", "format": "raw", "readonly": true}],
  "network": [{"user": {"forwards": ["2222:22", "udp:0.0.0.0:53:5353"]}},
              {"user": {}, "model": "e1000e", "mac": "52:54:00:00:00:01"}],
  "display": {"vnc": "127.0.0.1:5907"}, "serial": {"file": "s"},
  "qemu": {"binary": "/opt/qemu", "extra_args": ["-rtc", "base=localtime"]}
})";

TEST_CASE("plan: every file has its number, its access and its way to be made", "[plan]") {
  std::vector<std::string> lines;
  for (const FileUse& file : plan_of(kAll).files) {
    lines.push_back(line(file));
  }
  CHECK(lines ==
        std::vector<std::string>{"10 kernel /vms/k (read only, made: never) reopened",
                                 "11 initrd /vms/i (read only, made: never) reopened",
                                 "12 UEFI code /usr/share/code.fd (read only, made: never)",
                                 "13 UEFI variables /vms/v (read and write, made: from template "
                                 "/usr/share/vars.fd)",
                                 "14 disk 0 /vms/d0 (read and write, made: never) qcow2",
                                 "15 disk 1 /vms/d1 (read only, made: never)",
                                 "16 serial log /vms/s (append, made: empty)"});
}

TEST_CASE("plan: the whole command of a VM that has everything", "[plan]") {
  const Plan plan = plan_of(kAll);
  CHECK(plan.qemu.binary == "/opt/qemu");
  CHECK(plan.qemu.environment ==
        std::vector<std::string>{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"});
  CHECK_FALSE(plan.qemu.serial_stdio);
  const std::string expected = R"(-name guest=win10,process=win10,debug-threads=on
-nodefaults
-no-user-config
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-S
-chardev socket,id=qmp,fd=3
-mon chardev=qmp,mode=control
-machine q35,memory-backend=ram,pflash0=uefi-code,pflash1=uefi-vars
-accel tcg
-cpu max
-smp cpus=24,sockets=2,cores=3,threads=4
-m size=2560M
-object {"id":"ram","qom-type":"memory-backend-memfd","size":2684354560}
-kernel /proc/self/fd/10
-initrd /proc/self/fd/11
-append console=ttyS0 a,b
-add-fd fd=12,set=12
-blockdev {"driver":"file","filename":"/dev/fdset/12","node-name":"uefi-code-file","read-only":true}
-blockdev {"driver":"raw","file":"uefi-code-file","node-name":"uefi-code","read-only":true}
-add-fd fd=13,set=13
-blockdev {"driver":"file","filename":"/dev/fdset/13","node-name":"uefi-vars-file","read-only":false}
-blockdev {"driver":"raw","file":"uefi-vars-file","node-name":"uefi-vars","read-only":false}
-add-fd fd=14,set=14
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/14","node-name":"disk0-file","read-only":false}
-blockdev {"backing":null,"discard":"unmap","driver":"qcow2","file":"disk0-file","node-name":"disk0","read-only":false}
-device {"addr":"0x4","bootindex":1,"bus":"pcie.0","drive":"disk0","driver":"virtio-blk-pci","id":"disk0-device"}
-add-fd fd=15,set=15
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/15","node-name":"disk1-file","read-only":true}
-blockdev {"discard":"unmap","driver":"raw","file":"disk1-file","node-name":"disk1","read-only":true}
-device {"addr":"0x5","bootindex":2,"bus":"pcie.0","drive":"disk1","driver":"virtio-blk-pci","id":"disk1-device"}
-netdev {"hostfwd":[{"str":"tcp:127.0.0.1:2222-:22"},{"str":"udp:0.0.0.0:53-:5353"}],"id":"net0","type":"user"}
-device {"addr":"0x14","bus":"pcie.0","driver":"virtio-net-pci","id":"nic0","netdev":"net0","romfile":""}
-netdev {"id":"net1","type":"user"}
-device {"addr":"0x15","bus":"pcie.0","driver":"e1000e","id":"nic1","mac":"52:54:00:00:00:01","netdev":"net1","romfile":""}
-add-fd fd=16,set=16
-chardev file,id=serial0,append=on,path=/dev/fdset/16
-serial chardev:serial0
-device {"addr":"0x2","bus":"pcie.0","driver":"VGA","id":"screen"}
-vnc 127.0.0.1:7
-device {"addr":"0x3","bus":"pcie.0","driver":"qemu-xhci","id":"usb"}
-device {"bus":"usb.0","driver":"usb-tablet","id":"tablet"}
-rtc base=localtime)";
  std::string command;
  for (const std::string& argument : plan.qemu.arguments) {
    command += command.empty() ? "" : argument.starts_with('-') ? "\n" : " ";
    command += argument;
  }
  CHECK(command == expected);
}

TEST_CASE("plan: a hypervisor is hidden and spoken to like Hyper-V only under KVM", "[plan]") {
  const std::string enlightened =
      ",hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-time,hv-stimer,"
      "hv-frequencies,hv-tlbflush,hv-ipi";
  struct Row {
    const char* cpu;
    std::string model;
  };
  for (const Row& row : {
           Row{R"({"hide_hypervisor": true})", "host,kvm=off"},
           Row{R"({"hyperv": true})", "host" + enlightened},
           Row{R"({"hyperv": {"vendor_id": "a b"}})", "host" + enlightened + ",hv-vendor-id=a b"},
           Row{R"({"hyperv": true, "hide_hypervisor": true, "model": "max"})",
               "max,kvm=off" + enlightened + ",hv-vendor-id=whatever"},
       }) {
    INFO(row.cpu);
    const std::string cpu = std::string(R"("cpu": )") + row.cpu;
    const Plan kvm = plan_of("{" + cpu + R"(, "accel": "kvm"})");
    CHECK(value_of(kvm, "-cpu") == row.model);
    CHECK(kvm.warnings.empty());
    const Plan tcg = plan_of("{" + cpu + R"(, "accel": "tcg"})");
    CHECK(value_of(tcg, "-cpu") == "max");
    CHECK(tcg.warnings ==
          std::vector<std::string>{
              "cpu.hide_hypervisor and cpu.hyperv need KVM: the guest is started without them"});
  }
}

/// The arguments from the first thread, disk or controller on, a line each.
std::string disk_arguments(const Plan& plan) {
  std::string text;
  const std::vector<std::string>& all = plan.qemu.arguments;
  const auto from = std::find(all.begin(), all.end(), "-m") + 4;  // -m SIZE -object MEMORY
  for (auto argument = from; argument != all.end() && *argument != "-display"; argument += 2) {
    text += *argument + " " + *(argument + 1) + "\n";
  }
  return text;
}

TEST_CASE("plan: each bus of a disk has its device, and virtio-scsi one controller", "[plan]") {
  const Plan plan = plan_of(R"({"disks": [
      {"path": "a", "format": "raw", "bus": "sata", "cache": "unsafe"},
      {"path": "b", "format": "raw", "bus": "virtio-scsi", "serial": "x, \"y\""},
      {"path": "c", "type": "cdrom"},
      {"path": "d", "format": "raw", "iothread": true, "cache": "none"},
      {"path": "e", "type": "cdrom", "bus": "virtio-scsi", "iothread": true},
      {"path": "f", "format": "raw", "cache": "writethrough"}]})");
  CHECK(disk_arguments(plan) ==
        R"(-object {"id":"iothread-scsi","qom-type":"iothread"}
-device {"addr":"0x5","bus":"pcie.0","driver":"virtio-scsi-pci","id":"scsi","iothread":"iothread-scsi"}
-add-fd fd=10,set=10
-blockdev {"cache":{"no-flush":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/10","node-name":"disk0-file","read-only":false}
-blockdev {"cache":{"no-flush":true},"discard":"unmap","driver":"raw","file":"disk0-file","node-name":"disk0","read-only":false}
-device {"bootindex":1,"bus":"ide.0","drive":"disk0","driver":"ide-hd","id":"disk0-device"}
-add-fd fd=11,set=11
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/11","node-name":"disk1-file","read-only":false}
-blockdev {"discard":"unmap","driver":"raw","file":"disk1-file","node-name":"disk1","read-only":false}
-device {"bootindex":2,"bus":"scsi.0","drive":"disk1","driver":"scsi-hd","id":"disk1-device","scsi-id":1,"serial":"x, \"y\""}
-add-fd fd=12,set=12
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/12","node-name":"disk2-file","read-only":true}
-blockdev {"discard":"unmap","driver":"raw","file":"disk2-file","node-name":"disk2","read-only":true}
-device {"bootindex":3,"bus":"ide.1","drive":"disk2","driver":"ide-cd","id":"disk2-device"}
-add-fd fd=13,set=13
-blockdev {"cache":{"direct":true},"discard":"unmap","driver":"file","filename":"/dev/fdset/13","node-name":"disk3-file","read-only":false}
-blockdev {"cache":{"direct":true},"discard":"unmap","driver":"raw","file":"disk3-file","node-name":"disk3","read-only":false}
-object {"id":"iothread-disk3","qom-type":"iothread"}
-device {"addr":"0x7","bootindex":4,"bus":"pcie.0","drive":"disk3","driver":"virtio-blk-pci","id":"disk3-device","iothread":"iothread-disk3"}
-add-fd fd=14,set=14
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/14","node-name":"disk4-file","read-only":true}
-blockdev {"discard":"unmap","driver":"raw","file":"disk4-file","node-name":"disk4","read-only":true}
-device {"bootindex":5,"bus":"scsi.0","drive":"disk4","driver":"scsi-cd","id":"disk4-device","scsi-id":4}
-add-fd fd=15,set=15
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/15","node-name":"disk5-file","read-only":false}
-blockdev {"discard":"unmap","driver":"raw","file":"disk5-file","node-name":"disk5","read-only":false}
-device {"addr":"0x9","bootindex":6,"bus":"pcie.0","drive":"disk5","driver":"virtio-blk-pci","id":"disk5-device","write-cache":"off"}
)");
  std::vector<bool> direct;
  for (const FileUse& file : plan.files) {
    direct.push_back(file.direct);
  }
  CHECK(direct == std::vector<bool>{false, false, false, true, false, false});
}

TEST_CASE("plan: native AIO stands at the node that opens the file", "[plan]") {
  const Plan plan =
      plan_of(R"({"disks": [{"path": "a", "format": "qcow2", "cache": "none", "aio": "native"}]})");
  CHECK(values_of(plan, "-blockdev") ==
        std::vector<std::string>{
            R"({"aio":"native","cache":{"direct":true},"discard":"unmap","driver":"file",)"
            R"("filename":"/dev/fdset/10","node-name":"disk0-file","read-only":false})",
            R"({"backing":null,"cache":{"direct":true},"discard":"unmap","driver":"qcow2",)"
            R"("file":"disk0-file","node-name":"disk0","read-only":false})"});
}

TEST_CASE("plan: the guest's graphics card is the config's, with VNC or without", "[plan]") {
  struct Row {
    const char* config;
    const char* driver;
  };
  for (const Row& row : {Row{R"({"video": "vga"})", "VGA"},
                         Row{R"({"video": "qxl"})", "qxl-vga"},
                         Row{R"({"video": "virtio"})", "virtio-vga"},
                         Row{R"({"video": "none"})", ""}}) {
    INFO(row.config);
    for (const bool vnc : {false, true}) {
      Json config = Json::parse(row.config);
      if (vnc) {
        config["display"] = {{"vnc", "127.0.0.1:5900"}};
      }
      std::string driver;
      for (const std::string& value : values_of(plan_of(config.dump()), "-device")) {
        const Json device = Json::parse(value);
        driver += device.at("id") == "screen" ? device.at("driver").get<std::string>() : "";
      }
      CHECK(driver == row.driver);
    }
  }
}

TEST_CASE("plan: the guest is heard where a sound server is, and told where not", "[plan]") {
  const std::string annas = "/run/user/1000/pulse/native";
  const std::string none = R"({"driver":"none","id":"audio"})";
  const auto pa = [](const std::string& path) {
    return R"({"driver":"pa","id":"audio","server":")" + path + "\"}";
  };
  const auto no_server = [](const std::string& path) {
    return "there is no sound server at " + path + ": the guest is not heard; type: ls -l " + path;
  };
  survey::Survey survey = host();
  survey.sound_servers = {annas, "/vms/socket"};
  struct Row {
    const char* audio;
    const Identity& identity;
    std::string backend;
    std::string warning;
  };
  for (const Row& row : {
           Row{R"({"backend": "none"})", kPlain, none, ""},
           Row{R"({"backend": "pa"})", kPlain, pa(annas), ""},
           Row{R"({"backend": "pa"})", kSudo, pa(annas), ""},
           Row{R"({"backend": "pa", "server": "socket"})", kPureRoot, pa("/vms/socket"), ""},
           Row{R"({"backend": "pa", "server": "other"})", kPlain, none, no_server("/vms/other")},
           Row{R"({"backend": "pa"})",
               kPureRoot,
               none,
               "QEMU's user has no sound server: the guest is not heard; name one in audio.server, "
               "or a user in run_as"},
           Row{R"({"backend": "pipewire"})",
               kPlain,
               pa(annas),
               "QEMU speaks to PipeWire as to PulseAudio, at " + annas},
       }) {
    INFO(row.audio);
    const Plan plan = plan_of(std::string(R"({"audio": )") + row.audio + "}", survey, row.identity);
    CHECK(value_of(plan, "-audiodev") == row.backend);
    CHECK(base::join(plan.warnings, "\n") == row.warning);
  }
  const Plan plan = plan_of(R"({"audio": {"backend": "none", "device": "hda-micro"}})");
  CHECK(values_of(plan, "-device") ==
        std::vector<std::string>{
            R"({"addr":"0x1e","bus":"pcie.0","driver":"ich9-intel-hda","id":"sound"})",
            R"({"audiodev":"audio","bus":"sound.0","driver":"hda-micro","id":"codec"})"});
}

TEST_CASE("plan: a clock with local time catches up with what the guest missed", "[plan]") {
  CHECK(value_of(plan_of(R"({"rtc": {"base": "localtime"}})"), "-rtc") ==
        "base=localtime,driftfix=slew");
  CHECK(values_of(plan_of(R"({"rtc": {"base": "utc"}})"), "-rtc").empty());
}

TEST_CASE("plan: ROM and VGA's addresses are the listed function's alone", "[plan]") {
  survey::Survey survey = host();
  tests::PciTree tree;
  tests::add_laptop(tree);
  survey.pci = survey::look_at_pci(tree.tree());
  const Plan plan = plan_of(
      R"({"pci": [{"device": "01:00.0", "functions": "all", "rom": "a, b.rom", "x_vga": true}]})",
      survey,
      kSudo);
  const std::vector<std::string> devices = values_of(plan, "-device");
  REQUIRE(devices.size() == 3);
  const Json card = Json::parse(devices[1]);
  CHECK(card.at("host") == "0000:01:00.0");
  CHECK(card.at("romfile") == "/proc/self/fd/10");
  CHECK(card.at("x-vga") == true);
  CHECK_FALSE(card.contains("rombar"));
  const Json sound = Json::parse(devices[2]);
  CHECK(sound.at("host") == "0000:01:00.1");
  CHECK_FALSE(sound.contains("romfile"));
  CHECK_FALSE(sound.contains("x-vga"));
  CHECK(line(plan.files.at(0)) ==
        "10 ROM of 0000:01:00.0 /vms/a, b.rom (read only, made: never) reopened");
  const Plan barred =
      plan_of(R"({"pci": [{"device": "01:00.0", "rombar": false}]})", survey, kSudo);
  CHECK(Json::parse(values_of(barred, "-device").at(1)).at("rombar") == 0);
}

TEST_CASE("plan: VGA's addresses are for a VGA card only", "[plan]") {
  survey::Survey survey = host();
  tests::PciTree tree;
  tests::add_laptop(tree);
  survey.pci = survey::look_at_pci(tree.tree());
  CHECK(tests::refusal([&] {
          static_cast<void>(
              plan_of(R"({"pci": [{"device": "01:00.1", "x_vga": true}]})", survey, kSudo));
        }) ==
        "10: Cannot give 0000:01:00.1 to the guest with x_vga: it is no VGA card; type: vmlaunch "
        "host");
}

TEST_CASE("plan: a serial port on the terminal gets a socket, never the terminal", "[plan]") {
  const Plan plan = plan_of(R"({"serial": "stdio"})");
  CHECK(plan.qemu.serial_stdio);
  CHECK(value_of(plan, "-chardev") == "socket,id=qmp,fd=3 | socket,id=serial0,fd=4");
  CHECK(value_of(plan, "-serial") == "chardev:serial0");
  CHECK(plan.files.empty());
}

TEST_CASE("plan: the older machine type has its bus's name on every device", "[plan]") {
  const Plan plan = plan_of(R"({"machine": "pc", "network": [{"user": {}}],
      "disks": [{"path": "d", "format": "raw"}], "display": {"vnc": "127.0.0.1:5900"}})");
  std::vector<std::string> buses;
  for (const std::string& value : values_of(plan, "-device")) {
    buses.push_back(Json::parse(value).at("bus"));
  }
  CHECK(buses == std::vector<std::string>{"pci.0", "pci.0", "pci.0", "pci.0", "usb.0"});
  CHECK(value_of(plan, "-machine") == "pc,memory-backend=ram");
}

TEST_CASE("plan: a UEFI build of the host is needed unless the config names a whole one",
          "[plan]") {
  survey::Survey survey = host();
  survey.uefi.reset();
  const std::string missing =
      "10: Cannot find a UEFI build on this host, which \"uefi\": true needs; type: apt install "
      "ovmf, or name one with \"code\" and \"template\" under \"firmware\"";
  struct Row {
    const char* more;
    std::string without_host;
    std::string with_host;
  };
  for (const Row& row : {
           Row{"", missing, "/usr/share/code.fd /usr/share/vars.fd"},
           Row{R"(, "code": "c")", missing, "/vms/c /usr/share/vars.fd"},
           Row{R"(, "template": "t")", missing, "/usr/share/code.fd /vms/t"},
           Row{R"(, "code": "c", "template": "t")", "/vms/c /vms/t", "/vms/c /vms/t"},
       }) {
    INFO(row.more);
    const std::string config =
        std::string(R"({"firmware": {"uefi": true, "vars": "v")") + row.more + "}}";
    const auto builds = [&](const survey::Survey& given) {
      std::string text;
      const std::string refused = tests::refusal([&] {
        const Plan plan = plan_of(config, given);
        text = plan.files.at(0).path + " " + plan.files.at(1).template_path;
      });
      return refused == "nothing" ? text : refused;
    };
    CHECK(builds(survey) == row.without_host);
    CHECK(builds(host()) == row.with_host);
  }
}

TEST_CASE("plan: without UEFI a host's build is neither needed nor used", "[plan]") {
  survey::Survey survey = host();
  survey.uefi.reset();
  CHECK(plan_of("{}", survey) == plan_of("{}"));
}

TEST_CASE("plan: the first deadline grows with memory and disks, the others are fixed", "[plan]") {
  struct Row {
    const char* config;
    Deadlines deadlines;
  };
  for (const Row& row : {
           Row{"{}", {31s, 10s, 60s, 10s, 5s, 5s, 10s}},
           Row{R"({"memory": {"size": "1023M"}})", {30s, 10s, 60s, 10s, 5s, 5s, 10s}},
           Row{R"({"memory": {"size": "1T"}})", {1054s, 10s, 60s, 10s, 5s, 5s, 10s}},
           Row{R"({"stop": {"timeout": "0s"}})", {31s, 10s, 0s, 10s, 5s, 5s, 10s}},
           Row{R"({"stop": {"timeout": "2h"}})", {31s, 10s, 2h, 10s, 5s, 5s, 10s}},
           Row{R"({"memory": {"size": "12G"}, "disks": [{"path": "a", "format": "raw"},
                                                        {"path": "b", "format": "raw"}]})",
               {46s, 10s, 60s, 10s, 5s, 5s, 10s}},
       }) {
    INFO(row.config);
    CHECK(plan_of(row.config).deadlines == row.deadlines);
  }
}

TEST_CASE("plan: the same input gives the same plan, and the effective config too", "[plan]") {
  for (const std::string& config :
       {std::string("{}"), std::string(kAll), std::string(R"({"serial": "stdio"})")}) {
    INFO(config);
    const VmSpec spec = load(config);
    const survey::Survey survey = host();
    const Plan plan = make_plan(spec, survey, kPlain, Authority::user);
    CHECK(make_plan(spec, survey, kPlain, Authority::user) == plan);
    const VmSpec again = load(config::effective(spec).dump(), "/elsewhere/other.json");
    CHECK(make_plan(again, survey, kPlain, Authority::user) == plan);
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
