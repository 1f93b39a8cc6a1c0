#include "launcher/config/vm_spec.hpp"

#include <algorithm>
#include <array>
#include <bit>
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

/// What guests that refuse a virtual machine look for is Hyper-V's own name, and any other will do.
constexpr const char* kHiddenVendorId = "whatever";

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
    spec.file = file_.string();
    name(config, spec);
    spec.machine = config.machine.value_or(spec.machine);
    spec.accel = config.accel.value_or(spec.accel);
    cpu(config.cpu, spec);
    memory(config.memory, spec.memory);
    spec.module_parameters = config.module_parameters;
    linux_boot(config, spec);
    firmware(config.firmware, spec);
    disks(config, spec);
    network(config, spec);
    pci(config, spec);
    usb(config, spec);
    single_gpu(config, spec);
    stop_units(config, spec);
    console(config, spec);
    video(config, spec);
    audio(config, spec);
    qemu(config, spec);
    run_as(config, spec);
    spec.rtc_base = config.rtc_base.value_or(spec.rtc_base);
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
  void report_without(const std::string& needed,
                      const std::string& key,
                      const std::string& message) {
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
    spec.cpu.hide_hypervisor = cpu.hide_hypervisor.value_or(false);
    spec.cpu.hyperv = cpu.hyperv;
    if (spec.cpu.hide_hypervisor && cpu.hyperv && !cpu.hyperv->vendor_id) {
      spec.cpu.hyperv->vendor_id = kHiddenVendorId;
    }
  }

  void memory(const Config::Memory& given, VmSpec::Memory& memory) {
    memory.size = given.size.value_or(memory.size);
    if (memory.size.bytes < 16 * base::kMiB || memory.size.bytes % base::kMiB != 0) {
      report("/memory/size",
             "expected a multiple of 1M, at least 16M, found \"" + base::to_string(memory.size) +
                 "\"");
    }
    memory.locked = given.locked.value_or(false);
    nodes(given, memory);
    hugepages(given, memory);
  }

  void nodes(const Config::Memory& given, VmSpec::Memory& memory) {
    if (given.node) {
      memory.nodes.push_back(*given.node);
    }
    std::set<unsigned> seen;
    for (std::size_t i = 0; i < given.nodes.size(); ++i) {
      const std::optional<unsigned>& node = given.nodes[i];
      if (node && !seen.insert(*node).second) {
        report(child("/memory/node", i), "this node is listed twice");
      }
      memory.nodes.push_back(node.value_or(0));
    }
  }

  void hugepages(const Config::Memory& given, VmSpec::Memory& memory) {
    if (!given.hugepages) {
      for (const auto& [key, is_given] :
           {std::pair("/memory/fallback", given.fallback.has_value()),
            std::pair("/memory/compact", given.compact.has_value()),
            std::pair("/memory/drop_caches", given.drop_caches.has_value())}) {
        if (is_given) {
          report_without("/memory/hugepages", key, "given without \"hugepages\"");
        }
      }
      return;
    }
    const std::uint64_t page = given.hugepages->bytes;
    if (page < base::kMiB || !std::has_single_bit(page)) {
      report("/memory/hugepages",
             "expected a size of huge pages such as \"2M\" or \"1G\", found \"" +
                 base::to_string(*given.hugepages) + "\"");
    } else if (memory.size.bytes % page != 0) {
      report("/memory/size",
             "expected a multiple of the huge pages' " + base::to_string(*given.hugepages) +
                 ", found \"" + base::to_string(memory.size) + "\"");
    } else if (memory.size.bytes / page < memory.nodes.size()) {
      report("/memory/node", "there are more nodes than huge pages");
    }
    memory.hugepages = VmSpec::HugePages{*given.hugepages,
                                         given.fallback.value_or(MemoryFallback::none),
                                         given.compact.value_or(true),
                                         given.drop_caches.value_or(false)};
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
      const bool is_cdrom = given.type == DiskType::cdrom;
      if (!given.format && !is_cdrom) {
        report_without(
            pointer + "/type",
            pointer + "/format",
            "missing: \"raw\" or \"qcow2\" (it is never guessed: a guest could write a header)");
      }
      disk.format = given.format.value_or(disk.format);
      disk.type = given.type.value_or(disk.type);
      disk.readonly = given.readonly.value_or(is_cdrom);
      disk.bus = given.bus.value_or(is_cdrom ? DiskBus::sata : disk.bus);
      disk.cache = given.cache.value_or(disk.cache);
      disk.aio = given.aio.value_or(disk.aio);
      disk.iothread = given.iothread.value_or(false);
      disk.serial = given.serial;
      if (is_cdrom) {
        cdrom(given, pointer);
      }
      disk_options(disk, pointer);
      if (given.path && !given.path->empty() && !seen.insert(disk.path).second) {
        report(pointer + "/path", "this disk is listed twice");
      }
      spec.disks.push_back(disk);
    }
    sata(spec);
  }

  void cdrom(const Config::Disk& given, const std::string& pointer) {
    if (given.format == DiskFormat::qcow2) {
      report(pointer + "/format", "a CD-ROM is \"raw\"");
    }
    if (given.readonly == false) {
      report(pointer + "/readonly", "a CD-ROM is read only");
    }
    if (given.bus == DiskBus::virtio_blk) {
      report(pointer + "/bus", "a CD-ROM is on \"sata\" or \"virtio-scsi\"");
    }
  }

  void disk_options(const VmSpec::Disk& disk, const std::string& pointer) {
    if (disk.aio == DiskAio::native && disk.cache != DiskCache::none) {
      report_without(
          pointer + "/cache",
          pointer + "/aio",
          "\"native\" needs \"cache\": \"none\": it works only past the host's page cache");
    }
    if (disk.iothread && disk.bus == DiskBus::sata) {
      report_without(
          pointer + "/bus",
          pointer + "/iothread",
          "\"sata\" has no thread of its own: only \"virtio-blk\" and \"virtio-scsi\" do");
    }
  }

  void sata(const VmSpec& spec) {
    const auto count =
        std::count_if(spec.disks.begin(), spec.disks.end(), [](const VmSpec::Disk& disk) {
          return disk.bus == DiskBus::sata;
        });
    if (count > 0 && spec.machine != Machine::q35) {
      report("/disks", "\"sata\", which is also a CD-ROM's default, needs \"machine\": \"q35\"");
    }
    if (count > static_cast<std::ptrdiff_t>(kMostSataDisks)) {
      report("/disks",
             "at most " + std::to_string(kMostSataDisks) + " disks are possible on \"sata\"");
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

  /// Of all cards in a machine one answers at VGA's old addresses.
  void video(const Config& config, VmSpec& spec) {
    spec.video = config.video.value_or(spec.display.vnc ? Video::vga : Video::none);
    bool taken = false;
    for (std::size_t i = 0; i < spec.pci.size(); ++i) {
      if (!spec.pci[i].view.x_vga) {
        continue;
      }
      const std::string pointer = child("/pci", i) + "/x_vga";
      if (spec.video != Video::none) {
        report_without("/video",
                       pointer,
                       "VGA's addresses are the emulated card's; give the guest none: \"video\": "
                       "\"none\"");
      }
      if (taken) {
        report(pointer, "VGA's addresses are another device's already");
      }
      taken = true;
    }
  }

  void audio(const Config& config, VmSpec& spec) {
    if (!config.audio) {
      return;
    }
    VmSpec::Audio audio;
    audio.backend = config.audio->backend.value_or(audio.backend);
    audio.device = config.audio->device.value_or(audio.device);
    if (config.audio->server) {
      audio.server = path("/audio/server", *config.audio->server);
      if (config.audio->backend == AudioBackend::none) {
        report("/audio/server", "given without a sound server as \"backend\"");
      }
      // libpulse takes a list.
      if (audio.server->find_first_of(" \t\n\r\f\v") != std::string::npos) {
        report("/audio/server",
               "a path with a space, where PulseAudio begins another server's name");
      }
    }
    spec.audio = audio;
  }

  void pci(const Config& config, VmSpec& spec) {
    if (config.pci.size() > kMostPciDevices) {
      report("/pci", "at most " + std::to_string(kMostPciDevices) + " PCI devices are possible");
    }
    if (!config.pci.empty() && spec.machine != Machine::q35) {
      report("/pci", "PCI devices need \"machine\": \"q35\", which has PCI Express");
    }
    std::set<std::vector<PciSelector>> seen;
    for (std::size_t i = 0; i < config.pci.size(); ++i) {
      const Config::Pci& given = config.pci[i];
      const std::string pointer = child("/pci", i);
      VmSpec::Pci device;
      device.all_functions = given.functions == PciScope::all;
      device.whole_group = given.group == PciScope::all;
      device.expect = given.expect;
      device.device = given.device;
      device.view = pci_view(given, pointer);
      device.release_timeout = given.release_timeout.value_or(device.release_timeout);
      take(given, pointer, device);
      if (given.device.empty()) {
        report(pointer + "/device", "missing: the address, as vmlaunch host shows it");
      } else if (!seen.insert(given.device).second) {
        report(pointer + "/device", "this device is listed twice");
      }
      spec.pci.push_back(device);
    }
  }

  void usb(const Config& config, VmSpec& spec) {
    if (config.usb.size() > kMostUsbDevices) {
      report("/usb", "at most " + std::to_string(kMostUsbDevices) + " USB devices are possible");
    }
    std::set<UsbRule> seen;
    for (std::size_t i = 0; i < config.usb.size(); ++i) {
      const Config::Usb& given = config.usb[i];
      const std::string pointer = child("/usb", i);
      if (given.ways.empty()) {
        report(pointer, "it names no device: give \"device\", \"port\" or \"address\"");
      }
      for (std::size_t k = 1; k < given.ways.size(); ++k) {
        report(child(pointer, given.ways[k]),
               std::string("a device is named in one way, and this one is by \"") +
                   given.ways.front() + "\" already");
      }
      if (!given.device) {
        continue;
      }
      const VmSpec::Usb device{*given.device, given.optional.value_or(false)};
      if (!seen.insert(device.device).second) {
        report(pointer, "this device is listed twice");
      }
      if (device.optional && std::holds_alternative<UsbAddress>(device.device)) {
        report(pointer + "/optional",
               "what comes later has another address then: name it by \"device\" or \"port\"");
      }
      spec.usb.push_back(device);
    }
  }

  /// What is only kept from everybody is nothing to the guest.
  void take(const Config::Pci& given, const std::string& pointer, VmSpec::Pci& device) {
    device.driver = given.driver.value_or(PciTaker::vfio);
    device.rescan = given.rescan.value_or(false);
    if (device.driver == PciTaker::vfio) {
      return;
    }
    for (const auto& [key, is_given] : {std::pair("/rom", given.rom.has_value()),
                                        std::pair("/rombar", given.rombar.has_value()),
                                        std::pair("/x_vga", given.x_vga.has_value()),
                                        std::pair("/rescan", given.rescan.has_value())}) {
      if (is_given) {
        report(pointer + key,
               "given for a device that \"driver\": \"pci-stub\" keeps from the guest");
      }
    }
  }

  VmSpec::PciView pci_view(const Config::Pci& given, const std::string& pointer) {
    VmSpec::PciView view{{}, given.rombar.value_or(true), given.x_vga.value_or(false)};
    if (given.rom) {
      view.rom = path(pointer + "/rom", *given.rom);
      if (!view.rombar) {
        report(pointer + "/rom", "the guest sees no ROM with \"rombar\": false");
      }
    }
    return view;
  }

  void single_gpu(const Config& config, VmSpec& spec) {
    spec.single_gpu = config.single_gpu.value_or(false);
    if (spec.single_gpu && config.pci.empty()) {
      report_without("/pci", "/single_gpu", "given without the GPU in \"pci\"");
    }
  }

  void stop_units(const Config& config, VmSpec& spec) {
    if (config.stop_units.size() > kMostUnits) {
      report("/stop_units", "at most " + std::to_string(kMostUnits) + " units are possible");
    }
    std::set<std::string> seen;
    for (std::size_t i = 0; i < config.stop_units.size(); ++i) {
      const std::string pointer = child("/stop_units", i);
      const std::string unit = config.stop_units[i].value_or("");
      if (!is_unit_name(unit)) {
        report(pointer,
               "expected a unit of systemd that can be started again, such as "
               "\"nvidia-persistenced.service\", found \"" +
                   unit + "\"");
      } else if (!seen.insert(unit).second) {
        report(pointer, "this unit is listed twice");
      }
      spec.stop_units.push_back(unit);
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

Json effective_cpu(const VmSpec::Cpu& cpu) {
  Json json = {{"sockets", cpu.sockets},
               {"cores", cpu.cores},
               {"threads", cpu.threads},
               {"hide_hypervisor", cpu.hide_hypervisor},
               {"hyperv", cpu.hyperv.has_value()}};
  if (cpu.model) {
    json["model"] = *cpu.model;
  }
  if (cpu.hyperv && cpu.hyperv->vendor_id) {
    json["hyperv"] = {{"vendor_id", *cpu.hyperv->vendor_id}};
  }
  return json;
}

Json effective_disks(const VmSpec& spec) {
  Json disks = Json::array();
  for (const VmSpec::Disk& disk : spec.disks) {
    Json entry = {{"path", disk.path},
                  {"format", to_string(disk.format)},
                  {"readonly", disk.readonly},
                  {"type", to_string(disk.type)},
                  {"bus", to_string(disk.bus)},
                  {"cache", to_string(disk.cache)},
                  {"aio", to_string(disk.aio)},
                  {"iothread", disk.iothread}};
    if (disk.serial) {
      entry["serial"] = *disk.serial;
    }
    disks.push_back(entry);
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

Json effective_selectors(const std::vector<PciSelector>& selectors) {
  Json texts = Json::array();
  for (const PciSelector& selector : selectors) {
    texts.push_back(to_string(selector));
  }
  return texts.size() == 1 ? texts.front() : texts;
}

Json effective_pci(const VmSpec& spec) {
  Json pci = Json::array();
  for (const VmSpec::Pci& device : spec.pci) {
    Json entry = {{"device", effective_selectors(device.device)},
                  {"functions", to_string(device.all_functions ? PciScope::all : PciScope::listed)},
                  {"group", to_string(device.whole_group ? PciScope::all : PciScope::listed)},
                  {"rombar", device.view.rombar},
                  {"x_vga", device.view.x_vga},
                  {"driver", to_string(device.driver)},
                  {"rescan", device.rescan},
                  {"release_timeout", base::to_string(device.release_timeout)}};
    if (device.view.rom) {
      entry["rom"] = *device.view.rom;
    }
    if (device.expect) {
      entry["expect"] = to_string(*device.expect);
    }
    pci.push_back(entry);
  }
  return pci;
}

const char* way_of(const UsbRule& rule) {
  static constexpr std::array kWays = {"device", "port", "address"};
  return kWays.at(rule.index());
}

Json effective_usb(const VmSpec& spec) {
  Json usb = Json::array();
  for (const VmSpec::Usb& entry : spec.usb) {
    usb.push_back({{way_of(entry.device), to_string(entry.device)}, {"optional", entry.optional}});
  }
  return usb;
}

Json effective_memory(const VmSpec::Memory& spec) {
  Json memory = {{"size", base::to_string(spec.size)}, {"locked", spec.locked}};
  if (!spec.nodes.empty()) {
    memory["node"] = spec.nodes;
  }
  if (spec.hugepages) {
    memory["hugepages"] = base::to_string(spec.hugepages->size);
    memory["fallback"] = to_string(spec.hugepages->fallback);
    memory["compact"] = spec.hugepages->compact;
    memory["drop_caches"] = spec.hugepages->drop_caches;
  }
  return memory;
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

Json effective_audio(const VmSpec::Audio& audio) {
  Json json = {{"backend", to_string(audio.backend)}, {"device", to_string(audio.device)}};
  if (audio.server) {
    json["server"] = *audio.server;
  }
  return json;
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
      {"cpu", effective_cpu(spec.cpu)},
      {"memory", effective_memory(spec.memory)},
      {"module_parameters", spec.module_parameters},
      {"firmware", effective_firmware(spec)},
      {"disks", effective_disks(spec)},
      {"network", effective_network(spec)},
      {"pci", effective_pci(spec)},
      {"usb", effective_usb(spec)},
      {"video", to_string(spec.video)},
      {"single_gpu", spec.single_gpu},
      {"stop_units", spec.stop_units},
      {"serial", effective_serial(spec.serial)},
      {"rtc", {{"base", to_string(spec.rtc_base)}}},
      {"qemu", {{"binary", spec.qemu_binary}, {"extra_args", spec.extra_args}}},
      {"stop", {{"timeout", base::to_string(spec.stop_timeout)}}},
  };
  if (spec.audio) {
    config["audio"] = effective_audio(*spec.audio);
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
