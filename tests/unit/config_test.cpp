#include <cstddef>
#include <string>
#include <vector>

#include "launcher/config/effective.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::launcher::config {
namespace {

const std::string kPath = "/home/u/vms/win10.json";

VmSpec load_text(const std::string& text, const std::string& path = kPath) {
  return load(Document(path, text), path);
}

/// What is wrong with a config, or "nothing".
std::string problems(const std::string& text, const std::string& path = kPath) {
  try {
    static_cast<void>(load_text(text, path));
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "nothing";
}

/// Every key, and none with its default.
const char* const kEverything = R"({
  // a comment
  "$schema": "vmlaunch.schema.json",
  "name": "full",
  "machine": "q35",
  "accel": "tcg",
  "cpu": { "model": "max,-vmx", "sockets": 2, "cores": 3, "threads": 4,
           "hide_hypervisor": true, "hyperv": { "without": ["ipi"] }, "pin": "1-3,008-28", "emulator": "0",
           "realtime": { "policy": "fifo", "priority": 2, "from": "started", "force": true },
           "isolate": ["frequency", "tasks"], "weight": 10000, "halt_polling": false,
           "power_management": false },
  "memory": { "size": "3072M" },
  "kernel": "boot/vmlinuz",
  "initrd": "boot/../initrd",
  "append": "console=ttyS0 \"a, b\" é",
  "firmware": { "uefi": true, "vars": "vars.fd", "code": "/usr/code.fd", "template": "tpl.fd" },
  "disks": [ { "path": "a, b.qcow2", "format": "qcow2",
               "backing": [ { "path": "base.qcow2", "format": "qcow2" }, { "path": "/dev/sdy", "format": "raw" } ] },
             { "path": "/dev/sdz", "format": "raw", "readonly": true, "bus": "virtio-scsi",
               "cache": "none", "aio": "native", "iothread": true, "serial": "S 1" },
             { "path": "install.iso", "type": "cdrom" } ],
  "network": [ { "user": { "forwards": ["2222:22", "udp:0.0.0.0:53:53"] }, "model": "e1000e",
                 "mac": "52:54:00:AB:00:01" },
               { "user": {} } ],
  "usb": [ { "device": "046D:C051" }, { "port": "1-2.3", "optional": true }, { "address": "001:004" } ],
  "pci": [ { "device": "04:00.0", "functions": "all", "expect": "10DE:1b81" },
           { "device": "10000:e1:00.7", "group": "all", "rom": "../gpu.rom", "x_vga": true } ],
  "single_gpu": true,
  "stop_units": ["gdm.service", "a@b.socket"],
  "hotplug": ["pci", "disk", "usb", "net"],
  "display": { "vnc": "127.0.0.1:5901" },
  "video": "none",
  "audio": { "backend": "pipewire", "device": "hda-micro", "server": "pulse" },
  "rtc": { "base": "localtime" }, "hpet": false, "on_reboot": "restart",
  "serial": { "file": "serial.log" },
  "qemu": { "binary": "qemu", "extra_args": ["-device", "{\"driver\": \"edu\"}"] },
  "run_as": "qemu_vga",
  "sandbox": "log",
  "stop": { "timeout": "90s" }
})";

TEST_CASE("config: an empty one is a whole VM by defaults", "[config]") {
  const VmSpec spec = load_text("{}");
  CHECK(effective(spec) == Json::parse(R"({
    "name": "win10",
    "machine": "q35",
    "accel": "auto",
    "cpu": { "sockets": 1, "cores": 1, "threads": 1, "hide_hypervisor": false, "hyperv": false,
             "pin": "none", "realtime": "auto", "isolate": [], "weight": "auto",
             "halt_polling": true, "power_management": "auto" },
    "memory": { "size": "1G", "locked": false },
    "module_parameters": {},
    "firmware": { "uefi": false },
    "disks": [],
    "network": [],
    "pci": [],
    "usb": [],
    "single_gpu": false,
    "stop_units": [],
    "hotplug": [],
    "display": "none",
    "video": "none",
    "serial": "none",
    "rtc": { "base": "utc" }, "hpet": "auto", "on_reboot": "reset",
    "qemu": { "binary": "/usr/bin/qemu-system-x86_64", "extra_args": [] },
    "sandbox": "on",
    "stop": { "timeout": "1m" }
  })"));
}

TEST_CASE("config: every key arrives, with paths from the config's folder", "[config]") {
  CHECK(effective(load_text(kEverything)) == Json::parse(R"({
    "name": "full",
    "machine": "q35",
    "accel": "tcg",
    "cpu": { "model": "max,-vmx", "sockets": 2, "cores": 3, "threads": 4,
             "hide_hypervisor": true, "hyperv": { "vendor_id": "whatever", "without": ["ipi"] },
             "pin": "1-3,8-28", "emulator": "0",
             "realtime": { "policy": "fifo", "priority": 2, "from": "started", "force": true },
             "isolate": ["tasks", "frequency"], "weight": 10000, "halt_polling": false,
             "power_management": false },
    "memory": { "size": "3G", "locked": false },
    "module_parameters": {},
    "kernel": "/home/u/vms/boot/vmlinuz",
    "initrd": "/home/u/vms/initrd",
    "append": "console=ttyS0 \"a, b\" é",
    "firmware": { "uefi": true, "vars": "/home/u/vms/vars.fd", "code": "/usr/code.fd",
                  "template": "/home/u/vms/tpl.fd" },
    "disks": [ { "path": "/home/u/vms/a, b.qcow2", "format": "qcow2", "readonly": false,
                 "backing": [ { "path": "/home/u/vms/base.qcow2", "format": "qcow2" },
                              { "path": "/dev/sdy", "format": "raw" } ],
                 "type": "disk", "bus": "virtio-blk", "cache": "writeback", "aio": "threads",
                 "iothread": true },
               { "path": "/dev/sdz", "format": "raw", "backing": [], "readonly": true,
                 "type": "disk", "bus": "virtio-scsi", "cache": "none", "aio": "native",
                 "iothread": true, "serial": "S 1" },
               { "path": "/home/u/vms/install.iso", "format": "raw", "backing": [], "readonly": true,
                 "type": "cdrom", "bus": "sata", "cache": "writeback", "aio": "threads",
                 "iothread": false } ],
    "network": [ { "user": { "forwards": ["tcp:127.0.0.1:2222:22", "udp:0.0.0.0:53:53"] },
                   "model": "e1000e", "mac": "52:54:00:ab:00:01" },
                 { "user": { "forwards": [] }, "model": "virtio" } ],
    "usb": [ { "device": "046d:c051", "optional": false }, { "port": "1-2.3", "optional": true },
             { "address": "1:4", "optional": false } ],
    "pci": [ { "device": "0000:04:00.0", "functions": "all", "group": "listed",
               "expect": "10de:1b81", "rombar": true, "x_vga": false, "release_timeout": "15s",
               "driver": "vfio-pci", "rescan": false,
               "on_no_reset": "warn" },
             { "device": "10000:e1:00.7", "functions": "listed", "group": "all",
               "rom": "/home/u/gpu.rom", "rombar": true, "x_vga": true,
               "release_timeout": "15s", "driver": "vfio-pci", "rescan": false,
               "on_no_reset": "warn" } ],
    "single_gpu": true,
    "stop_units": ["gdm.service", "a@b.socket"],
    "hotplug": ["usb", "disk", "pci", "net"],
    "display": { "vnc": "127.0.0.1:5901" },
    "video": "none",
    "audio": { "backend": "pipewire", "device": "hda-micro", "server": "/home/u/vms/pulse" },
    "rtc": { "base": "localtime" }, "hpet": false, "on_reboot": "restart",
    "serial": { "file": "/home/u/vms/serial.log" },
    "qemu": { "binary": "/home/u/vms/qemu", "extra_args": ["-device", "{\"driver\": \"edu\"}"] },
    "run_as": "qemu_vga",
    "sandbox": "log",
    "stop": { "timeout": "90s" }
  })"));
}

TEST_CASE("config: only a hidden hypervisor gets another name by itself", "[config]") {
  const auto hyperv = [](const std::string& cpu) {
    return effective(load_text(R"({"cpu": )" + cpu + "}")).at("cpu").at("hyperv");
  };
  CHECK(hyperv(R"({"hyperv": true})") == Json(true));
  CHECK(hyperv(R"({"hyperv": {}})") == Json(true));
  CHECK(hyperv(R"({"hyperv": {}, "hide_hypervisor": true})") ==
        Json{{"vendor_id", "whatever"}, {"without", Json::array()}});
  CHECK(hyperv(R"({"hyperv": {"vendor_id": "mine"}, "hide_hypervisor": true})") ==
        Json{{"vendor_id", "mine"}, {"without", Json::array()}});
  CHECK(hyperv(R"({"hide_hypervisor": true})") == Json(false));
}

TEST_CASE("config: CPUs are a set, or an ordered map of CPUs and sets", "[config]") {
  const auto cpu = [](const std::string& text) {
    return effective(load_text(R"({"cpu": )" + text + "}")).at("cpu");
  };
  CHECK(cpu(R"({"cores": 3, "pin": [9, "2-3", "1"]})").at("pin") == Json({"9", "2-3", "1"}));
  CHECK(cpu(R"({"pin": "auto"})").at("pin") == "auto");
  CHECK(cpu(R"({"pin": "none"})").at("pin") == "none");
  CHECK(cpu(R"({"pin": "7", "realtime": false})").at("realtime") == Json(false));
  CHECK(cpu(R"({"pin": "7", "realtime": true})").at("realtime") ==
        Json{{"policy", "rr"}, {"priority", 1}, {"from", "start"}, {"force", false}});
  CHECK(cpu(R"({"realtime": "auto"})").at("realtime") == "auto");
  CHECK(cpu(R"({"pin": "7", "isolate": true})").at("isolate") ==
        Json({"tasks", "interrupts", "kernel", "frequency"}));
  CHECK(cpu(R"({"pin": "7", "isolate": false})").at("isolate") == Json::array());
}

TEST_CASE("config: the screen is VGA's with a display and none without", "[config]") {
  CHECK(load_text("{}").video == Video::none);
  CHECK(load_text(R"({"display": {"spice": "127.0.0.1:5930"}})").video == Video::vga);
  CHECK(load_text(R"({"display": "gtk"})").video == Video::vga);
  CHECK(load_text(R"({"display": {"vnc": "127.0.0.1:5900"}})").video == Video::vga);
  CHECK(load_text(R"({"display": {"vnc": "127.0.0.1:5900"}, "video": "none"})").video ==
        Video::none);
  CHECK(load_text(R"({"video": "virtio"})").video == Video::virtio);
}

TEST_CASE("config: the effective config is a config that means the same anywhere", "[config]") {
  for (const std::string& text : {
           std::string("{}"),
           std::string(kEverything),
           std::string(R"({"name": "a", "kernel": "k"})"),
           std::string(R"({"kernel": "k", "initrd": "../i", "append": ""})"),
           std::string(R"({"firmware": {"uefi": false}, "display": "none", "network": "none"})"),
           std::string(R"({"firmware": {"uefi": true, "vars": "v.fd"}, "serial": "stdio"})"),
           std::string(R"({"display": "none", "serial": "none", "run_as": 1000})"),
           std::string(R"({"display": "sdl"})"),
           std::string(R"({"display": {"spice": "127.0.0.1:5930", "usb_redirection": 3}})"),
           std::string(R"({"memory": {"size": "16M"}, "stop": {"timeout": "0s"}})"),
           std::string(R"({"memory": {"size": "1025M"}, "stop": {"timeout": "1500ms"}})"),
           std::string(R"({"disks": [{"path": "d\n\t'\",", "format": "raw"}]})"),
       }) {
    INFO(text);
    const Json first = effective(load_text(text));
    const Json second = effective(load_text(first.dump(2), "/elsewhere/other.json"));
    CHECK(second == first);
  }
}

TEST_CASE("config: a path starts at the config's folder and is made plain", "[config]") {
  struct Row {
    const char* config;
    const char* written;
    const char* path;
  };
  for (const Row& row : {Row{"/a/b/c.json", "d.raw", "/a/b/d.raw"},
                         Row{"/a/b/c.json", "./d.raw", "/a/b/d.raw"},
                         Row{"/a/b/c.json", "../d.raw", "/a/d.raw"},
                         Row{"/a/b/c.json", "../../../d.raw", "/d.raw"},
                         Row{"/a/b/c.json", "x//y/./d.raw", "/a/b/x/y/d.raw"},
                         Row{"/a/b/c.json", "/d.raw", "/d.raw"},
                         Row{"/c.json", "d.raw", "/d.raw"},
                         Row{"/a, b/c d/c.json", "e\\\"f", "/a, b/c d/e\"f"},
                         Row{"/a/b/c.json", "~/d.raw", "/a/b/~/d.raw"},
                         Row{"/a/b/c.json", "$HOME", "/a/b/$HOME"}}) {
    INFO(row.written);
    const VmSpec spec = load_text(std::string(R"({"kernel": ")") + row.written + "\"}", row.config);
    REQUIRE(spec.linux_boot);
    CHECK(spec.linux_boot->kernel == row.path);
  }
}

TEST_CASE("config: the name is the file's without its last ending", "[config]") {
  struct Row {
    const char* path;
    const char* name;
  };
  for (const Row& row : {Row{"/vms/win10.json", "win10"},
                         Row{"/vms/win10", "win10"},
                         Row{"/vms/win.10.json", "win.10"},
                         Row{"/vms/_a-B.9.jsonc", "_a-B.9"}}) {
    INFO(row.path);
    CHECK(load_text("{}", row.path).name == row.name);
  }
}

TEST_CASE("config: a file's name that cannot be a VM's is told apart from a given one",
          "[config]") {
  const std::string expected =
      "expected 1 to 64 letters, digits, \".\", \"_\" or \"-\", the first a letter, a digit or "
      "\"_\", found ";
  CHECK(problems("{}", "/vms/my vm.json") ==
        "/vms/my vm.json:1:1: /name: no name is given, and the file's does not serve: " + expected +
            "\"my vm\"");
  CHECK(problems("{\"name\": \"my vm\"}") == kPath + ":1:10: /name: " + expected + "\"my vm\"");
}

TEST_CASE("config: a name is kept to what is safe in every option and path", "[config]") {
  CHECK(load_text("{\"name\": \"" + std::string(64, 'a') + "\"}").name == std::string(64, 'a'));
  for (const std::string& name : {std::string(""),
                                  std::string(65, 'a'),
                                  std::string("."),
                                  std::string(".."),
                                  std::string(".hidden"),
                                  std::string("-option"),
                                  std::string("a,b"),
                                  std::string("a=b"),
                                  std::string("a/b"),
                                  std::string("a\\nb"),
                                  std::string("é")}) {
    INFO("\"" << name << "\"");
    CHECK(problems("{\"name\": \"" + name + "\"}") != "nothing");
  }
}

TEST_CASE("config: a user may be given by number", "[config]") {
  CHECK(load_text(R"({"run_as": 1000})").run_as == "1000");
  CHECK(load_text(R"({"run_as": "1000"})").run_as == "1000");
}

TEST_CASE("config: QEMU is never root by any writing of it", "[config]") {
  for (const char* root : {"\"root\"", "\"0\"", "0", "\"\""}) {
    INFO(root);
    CHECK(problems(std::string("{\"run_as\": ") + root + "}") != "nothing");
  }
}

TEST_CASE("config: every problem is told in one go, each with its place", "[config]") {
  CHECK(problems("{\n  \"cpu\": { \"cores\": 0 },\n  \"initrd\": \"i\",\n  \"disk\": []\n}") ==
        kPath + ":2:21: /cpu/cores: expected a whole number from 1 to 255, found 0\n" + kPath +
            ":3:13: /initrd: given without \"kernel\"\n" + kPath +
            ":4:3: /disk: unknown key \"disk\"; did you mean \"disks\"?");
}

}  // namespace
}  // namespace vmlaunch::launcher::config
