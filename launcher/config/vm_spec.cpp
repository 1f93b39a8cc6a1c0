#include "launcher/config/vm_spec.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <set>
#include <utility>

#include "base/text.hpp"

namespace vmlaunch::launcher::config {

namespace {

/// What vmlaunch itself says to QEMU, or what would undo how QEMU is held.
constexpr std::array<std::string_view, 27> kOwnOptions = {
    "accel",      "action",     "add-fd",   "async-teardown", "chroot",  "cpu",       "daemonize",
    "enable-kvm", "incoming",   "kernel",   "loadvm",         "m",       "machine",   "M",
    "mon",        "monitor",    "name",     "no-shutdown",    "pidfile", "preconfig", "qmp",
    "qmp-pretty", "readconfig", "run-with", "runas",          "S",       "sandbox"};

bool is_own_option(std::string_view argument) {
  if (!argument.starts_with('-')) {
    return false;
  }
  argument.remove_prefix(argument.starts_with("--") ? 2 : 1);
  argument = argument.substr(0, argument.find('='));
  return std::find(kOwnOptions.begin(), kOwnOptions.end(), argument) != kOwnOptions.end();
}

/// Root, by name or number, and the number that system calls take for "no change".
bool may_not_run_qemu(const std::string& user) {
  const auto uid = base::parse_number<std::uint32_t>(user);
  return user.empty() || user == "root" || uid == std::uint32_t{0} || uid == UINT32_MAX;
}

/// Whether `upper` is `pointer` or one of its parents.
bool holds(const std::string& upper, const std::string& pointer) {
  return pointer.starts_with(upper) &&
         (pointer.size() == upper.size() || pointer[upper.size()] == '/');
}

/// Checks one part after the other; each adds what it found wrong to `issues`, which holds what
/// could not be read.
class Validator {
 public:
  Validator(const std::string& path, std::vector<Issue>& issues)
      : file_(path), unread_(issues), issues_(issues) {}

  VmSpec validate(const Config& config) {
    VmSpec spec;
    name(config, spec);
    spec.machine = config.machine.value_or(spec.machine);
    spec.accel = config.accel.value_or(spec.accel);
    cpu(config.cpu, spec);
    memory(config, spec);
    linux_boot(config, spec);
    firmware(config.firmware, spec);
    disks(config, spec);
    network(config, spec);
    pci(config, spec);
    console(config, spec);
    qemu(config, spec);
    run_as(config, spec);
    spec.stop_timeout = config.stop_timeout.value_or(spec.stop_timeout);
    return spec;
  }

 private:
  /// A value that could not be read is not wrong, or missing, as well.
  [[nodiscard]] bool unread(const std::string& pointer) const {
    return std::any_of(unread_.begin(), unread_.end(), [&](const Issue& issue) {
      return !issue.at_key && holds(issue.pointer, pointer);
    });
  }

  void report(std::string pointer, std::string message) {
    if (!unread(pointer)) {
      issues_.push_back({std::move(pointer), std::move(message)});
    }
  }

  /// For a key that has a meaning only with another one.
  void report_without(const char* needed, const char* key, const std::string& message) {
    if (!unread(needed)) {
      report(key, message);
    }
  }

  /// Paths are relative to the config's folder, wherever vmlaunch was started.
  std::string path(const std::string& pointer, const std::string& written) {
    if (written.empty()) {
      report(pointer, "an empty path");
      return written;
    }
    return (file_.parent_path() / written).lexically_normal().string();
  }

  void name(const Config& config, VmSpec& spec) {
    spec.name = config.name.value_or(file_.stem().string());
    if (!is_vm_name(spec.name)) {
      report("/name",
             (config.name ? "" : "no name is given, and the file's does not serve: ") +
                 std::string("expected 1 to 64 letters, digits, \".\", \"_\" or \"-\", the "
                             "first a letter, a digit or \"_\", found \"") +
                 spec.name + "\"");
    }
  }

  void cpu(const Config::Cpu& cpu, VmSpec& spec) {
    spec.cpu.model = cpu.model;
    spec.cpu.sockets = cpu.sockets.value_or(1);
    spec.cpu.cores = cpu.cores.value_or(1);
    spec.cpu.threads = cpu.threads.value_or(1);
    // What both machine types take without an extended interrupt mode.
    if (spec.cpu.count() > 255) {
      report("/cpu",
             std::to_string(spec.cpu.count()) +
                 " vCPUs (sockets x cores x threads); at most 255 are possible");
    }
    if (cpu.model && (cpu.model->empty() || cpu.model->starts_with('-'))) {
      report("/cpu/model", "expected a CPU model of QEMU, found \"" + *cpu.model + "\"");
    }
  }

  void memory(const Config& config, VmSpec& spec) {
    spec.memory = config.memory_size.value_or(spec.memory);
    if (spec.memory.bytes < 16 * base::kMiB || spec.memory.bytes % base::kMiB != 0) {
      report("/memory/size",
             "expected a multiple of 1M, at least 16M, found \"" + base::to_string(spec.memory) +
                 "\"");
    }
  }

  void linux_boot(const Config& config, VmSpec& spec) {
    if (!config.kernel) {
      for (const auto& [key, given] : {std::pair("/initrd", config.initrd.has_value()),
                                       std::pair("/append", config.append.has_value())}) {
        if (given) {
          report_without("/kernel", key, "given without \"kernel\"");
        }
      }
      return;
    }
    VmSpec::Linux boot;
    boot.kernel = path("/kernel", *config.kernel);
    if (config.initrd) {
      boot.initrd = path("/initrd", *config.initrd);
    }
    boot.append = config.append.value_or("");
    spec.linux_boot = boot;
  }

  void firmware(const Config::Firmware& firmware, VmSpec& spec) {
    if (!firmware.uefi.value_or(false)) {
      for (const auto& [key, given] :
           {std::pair("/firmware/vars", firmware.vars.has_value()),
            std::pair("/firmware/code", firmware.code.has_value()),
            std::pair("/firmware/template", firmware.vars_template.has_value())}) {
        if (given) {
          report_without("/firmware/uefi", key, "given without \"uefi\": true");
        }
      }
      return;
    }
    VmSpec::Uefi uefi;
    if (firmware.vars) {
      uefi.vars = path("/firmware/vars", *firmware.vars);
    } else {
      report("/firmware/vars",
             "UEFI keeps its boot entries in a file: name one (it is made if it does not exist)");
    }
    if (firmware.code) {
      uefi.code = path("/firmware/code", *firmware.code);
    }
    if (firmware.vars_template) {
      uefi.vars_template = path("/firmware/template", *firmware.vars_template);
    }
    spec.uefi = uefi;
  }

  void disks(const Config& config, VmSpec& spec) {
    if (config.disks.size() > kMostDisks) {
      report("/disks", "at most " + std::to_string(kMostDisks) + " disks are possible");
    }
    std::set<std::string> seen;
    for (std::size_t i = 0; i < config.disks.size(); ++i) {
      const Config::Disk& given = config.disks[i];
      const std::string pointer = child("/disks", i);
      VmSpec::Disk disk;
      if (given.path) {
        disk.path = path(pointer + "/path", *given.path);
      } else {
        report(pointer + "/path", "missing: the image or block device");
      }
      if (given.format) {
        disk.format = *given.format;
      } else {
        report(pointer + "/format",
               "missing: \"raw\" or \"qcow2\" (it is never guessed: a guest could write a header)");
      }
      disk.readonly = given.readonly.value_or(false);
      if (given.path && !given.path->empty() && !seen.insert(disk.path).second) {
        report(pointer + "/path", "this disk is listed twice");
      }
      spec.disks.push_back(disk);
    }
  }

  VmSpec::Nic make_nic(const Config::Nic& given, const std::string& pointer) {
    VmSpec::Nic nic;
    if (given.kinds.empty()) {
      report(pointer + "/user",
             "missing: {} for user networking; or \"bridge\", \"tap\" or \"macvtap\" with the name "
             "of a network link of the host");
    } else {
      nic.kind = given.kinds.front();
    }
    for (std::size_t i = 1; i < given.kinds.size(); ++i) {
      report(child(pointer, to_string(given.kinds[i])),
             std::string("a NIC has one way to the host, and this one has \"") +
                 to_string(nic.kind) + "\" already");
    }
    nic.link = given.link.value_or("");
    nic.model = given.model.value_or(NicModel::virtio);
    nic.mac = given.mac;
    return nic;
  }

  void network(const Config& config, VmSpec& spec) {
    if (config.network.size() > kMostNics) {
      report("/network", "at most " + std::to_string(kMostNics) + " NICs are possible");
    }
    std::set<std::pair<PortForward::Protocol, std::uint16_t>> ports;
    std::set<MacAddress> macs;
    std::set<std::string> taps;
    for (std::size_t i = 0; i < config.network.size(); ++i) {
      const Config::Nic& given = config.network[i];
      const std::string pointer = child("/network", i);
      VmSpec::Nic nic = make_nic(given, pointer);
      if (nic.kind != NicKind::user && !nic.mac && !unread(pointer + "/mac")) {
        nic.mac = made_mac_address(spec.name, i);
      }
      if (nic.mac && !macs.insert(*nic.mac).second) {
        report(pointer + "/mac", "another NIC has this address, " + nic.mac->text);
      }
      if (nic.kind == NicKind::tap && !nic.link.empty() && !taps.insert(nic.link).second) {
        report(pointer + "/tap", "another NIC has this tap");
      }
      for (std::size_t k = 0; k < given.forwards.size(); ++k) {
        const std::optional<PortForward>& forward = given.forwards[k];
        if (!forward) {
          continue;
        }
        if (!ports.insert({forward->protocol, forward->host_port}).second) {
          report(child(pointer + "/user/forwards", k),
                 "host port " + std::to_string(forward->host_port) + " is forwarded twice");
        }
        nic.forwards.push_back(*forward);
      }
      spec.network.push_back(std::move(nic));
    }
  }

  void console(const Config& config, VmSpec& spec) {
    spec.display = config.display.value_or(Display{});
    if (spec.display.vnc) {
      if (!spec.display.vnc->address.starts_with("127.")) {
        report("/display/vnc",
               "expected an address of this machine (127.x.x.x): VNC has no "
               "password here; from elsewhere, tunnel the port through ssh");
      }
      if (spec.display.vnc->port < 5900) {
        report("/display/vnc", "expected a port from 5900 up (VNC's display 0)");
      }
    }
    spec.serial = config.serial.value_or(Serial{});
    if (spec.serial.kind == Serial::Kind::file) {
      spec.serial.file = path("/serial/file", spec.serial.file);
    }
  }

  void pci(const Config& config, VmSpec& spec) {
    if (config.pci.size() > kMostPciDevices) {
      report("/pci", "at most " + std::to_string(kMostPciDevices) + " PCI devices are possible");
    }
    if (!config.pci.empty() && spec.machine != Machine::q35) {
      report("/pci", "PCI devices need \"machine\": \"q35\", which has PCI Express");
    }
    std::set<base::PciAddress> seen;
    for (std::size_t i = 0; i < config.pci.size(); ++i) {
      const Config::Pci& given = config.pci[i];
      const std::string pointer = child("/pci", i);
      VmSpec::Pci device;
      device.all_functions = given.functions == PciScope::all;
      device.whole_group = given.group == PciScope::all;
      device.expect = given.expect;
      if (!given.device) {
        report(pointer + "/device", "missing: the address, as vmlaunch host shows it");
      } else if (!seen.insert(*given.device).second) {
        report(pointer + "/device", "this device is listed twice");
      }
      device.device = given.device.value_or(device.device);
      spec.pci.push_back(device);
    }
  }

  void qemu(const Config& config, VmSpec& spec) {
    if (config.qemu.binary) {
      spec.qemu_binary = path("/qemu/binary", *config.qemu.binary);
    }
    spec.extra_args = config.qemu.extra_args;
    for (std::size_t i = 0; i < spec.extra_args.size(); ++i) {
      if (is_own_option(spec.extra_args[i])) {
        report(child("/qemu/extra_args", i),
               "\"" + spec.extra_args[i] + "\" is vmlaunch's own to give to QEMU");
      }
    }
  }

  void run_as(const Config& config, VmSpec& spec) {
    spec.run_as = config.run_as;
    if (spec.run_as && may_not_run_qemu(*spec.run_as)) {
      report("/run_as", "expected a user other than root, found \"" + *spec.run_as + "\"");
    }
  }

  std::filesystem::path file_;
  std::vector<Issue> unread_;
  std::vector<Issue>& issues_;
};

Json effective_disks(const VmSpec& spec) {
  Json disks = Json::array();
  for (const VmSpec::Disk& disk : spec.disks) {
    disks.push_back(
        {{"path", disk.path}, {"format", to_string(disk.format)}, {"readonly", disk.readonly}});
  }
  return disks;
}

Json effective_network(const VmSpec& spec) {
  Json network = Json::array();
  for (const VmSpec::Nic& nic : spec.network) {
    Json entry = {{"model", to_string(nic.model)}};
    if (nic.kind == NicKind::user) {
      Json forwards = Json::array();
      for (const PortForward& forward : nic.forwards) {
        forwards.push_back(to_string(forward));
      }
      entry["user"] = {{"forwards", forwards}};
    } else {
      entry[to_string(nic.kind)] = nic.link;
    }
    if (nic.mac) {
      entry["mac"] = nic.mac->text;
    }
    network.push_back(entry);
  }
  return network;
}

Json effective_pci(const VmSpec& spec) {
  Json pci = Json::array();
  for (const VmSpec::Pci& device : spec.pci) {
    Json entry = {{"device", base::to_string(device.device)},
                  {"functions", to_string(device.all_functions ? PciScope::all : PciScope::listed)},
                  {"group", to_string(device.whole_group ? PciScope::all : PciScope::listed)}};
    if (device.expect) {
      entry["expect"] = to_string(*device.expect);
    }
    pci.push_back(entry);
  }
  return pci;
}

Json effective_firmware(const VmSpec& spec) {
  Json firmware = {{"uefi", spec.uefi.has_value()}};
  if (spec.uefi) {
    firmware["vars"] = spec.uefi->vars;
    if (spec.uefi->code) {
      firmware["code"] = *spec.uefi->code;
    }
    if (spec.uefi->vars_template) {
      firmware["template"] = *spec.uefi->vars_template;
    }
  }
  return firmware;
}

Json effective_serial(const Serial& serial) {
  switch (serial.kind) {
    case Serial::Kind::none:
      return "none";
    case Serial::Kind::stdio:
      return "stdio";
    case Serial::Kind::file:
      return {{"file", serial.file}};
  }
  return nullptr;
}

}  // namespace

bool is_vm_name(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 64 && name.front() != '.' && name.front() != '-' &&
         std::all_of(name.begin(), name.end(), allowed);
}

VmSpec load(const Document& document, const std::string& path) {
  std::vector<Issue> issues;
  const Config config = parse(document, issues);
  VmSpec spec = Validator(path, issues).validate(config);
  if (!issues.empty()) {
    throw document.error(issues);
  }
  return spec;
}

Json effective(const VmSpec& spec) {
  Json config = {
      {"name", spec.name},
      {"machine", to_string(spec.machine)},
      {"accel", to_string(spec.accel)},
      {"cpu",
       {{"sockets", spec.cpu.sockets}, {"cores", spec.cpu.cores}, {"threads", spec.cpu.threads}}},
      {"memory", {{"size", base::to_string(spec.memory)}}},
      {"firmware", effective_firmware(spec)},
      {"disks", effective_disks(spec)},
      {"network", effective_network(spec)},
      {"pci", effective_pci(spec)},
      {"serial", effective_serial(spec.serial)},
      {"qemu", {{"binary", spec.qemu_binary}, {"extra_args", spec.extra_args}}},
      {"stop", {{"timeout", base::to_string(spec.stop_timeout)}}},
  };
  if (spec.cpu.model) {
    config["cpu"]["model"] = *spec.cpu.model;
  }
  if (spec.linux_boot) {
    config["kernel"] = spec.linux_boot->kernel;
    config["append"] = spec.linux_boot->append;
    if (spec.linux_boot->initrd) {
      config["initrd"] = *spec.linux_boot->initrd;
    }
  }
  config["display"] = spec.display.vnc ? Json{{"vnc", to_string(*spec.display.vnc)}} : Json("none");
  if (spec.run_as) {
    config["run_as"] = *spec.run_as;
  }
  return config;
}

}  // namespace vmlaunch::launcher::config
