#include "launcher/plan/plan.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/config/effective.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;
using namespace std::chrono_literals;

/// "name uid:gid[,group…]", or what was refused.
std::string qemu_user(const survey::Survey& survey, const Identity& identity, Authority authority) {
  Plan plan;
  const std::string refused =
      refusal([&] { plan = make_plan(load("{}"), survey, identity, authority); });
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
      ": a config of anna's may only name its owner in run_as; let root own it: chown root "
      "/vms/win10.json";
  const std::string not_its =
      ": a config of uid 1880004711's may only name its owner in run_as; let root own it: chown "
      "root /vms/win10.json";
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
  CHECK(plan_of("{}").qemu.dev == Dev{{"kvm"}, {}, {}});
  CHECK(plan_of(R"({"sandbox": "off"})").qemu.dev == std::nullopt);
  CHECK(plan_of("{}", host(), kSudo).qemu.dev == Dev{{"kvm"}, {}, {}});
  CHECK(plan_of("{}", without_kvm(), kPureRoot).qemu.dev == Dev{});
}

TEST_CASE("plan: extra arguments need rights that are the caller's own or root's", "[plan]") {
  const std::string config = R"({"qemu": {"extra_args": ["-device", "edu"]}})";
  const auto planned = [&](const Identity& identity, Authority authority) {
    std::string last;
    const std::string refused = refusal([&] {
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
        "chown root /vms/win10.json");
  CHECK(planned(kPureRoot, Authority::user) ==
        "10: Cannot use qemu.extra_args of a config of uid 1880004711's in a run as root; let root "
        "own it: chown root /vms/win10.json");
}

TEST_CASE("plan: a config without extra arguments needs nobody's leave", "[plan]") {
  CHECK_NOTHROW(make_plan(load("{}"), host(), kSudo, Authority::user));
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
-kernel /vm/10
-initrd /vm/11
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
-object {"id":"iothread-disk0","qom-type":"iothread"}
-device {"addr":"0x4","bootindex":1,"bus":"pcie.0","drive":"disk0","driver":"virtio-blk-pci","id":"disk0-device","iothread":"iothread-disk0"}
-add-fd fd=15,set=15
-blockdev {"discard":"unmap","driver":"file","filename":"/dev/fdset/15","node-name":"disk1-file","read-only":true}
-blockdev {"discard":"unmap","driver":"raw","file":"disk1-file","node-name":"disk1","read-only":true}
-object {"id":"iothread-disk1","qom-type":"iothread"}
-device {"addr":"0x5","bootindex":2,"bus":"pcie.0","drive":"disk1","driver":"virtio-blk-pci","id":"disk1-device","iothread":"iothread-disk1"}
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
