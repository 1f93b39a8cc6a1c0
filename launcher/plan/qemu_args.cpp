#include "launcher/plan/qemu_args.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <utility>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/network.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::Json;
using config::VmSpec;

/// Slots of the root bus: 0, 1 and 0x1f are the chipset's on one machine type or the other.
constexpr std::size_t kScreenSlot = 2;
constexpr std::size_t kUsbSlot = 3;
constexpr std::size_t kFirstDiskSlot = 4;
constexpr std::size_t kFirstNicSlot = kFirstDiskSlot + config::kMostDisks;
constexpr std::size_t kFirstPortSlot = kFirstNicSlot + config::kMostNics;
constexpr std::size_t kPortsPerSlot = 8;  // a port is a function
constexpr std::size_t kSoundSlot = 0x1e;
static_assert(kFirstPortSlot + (config::kMostPciDevices - 1) / kPortsPerSlot < kSoundSlot);

constexpr unsigned kUsbPorts = 15;  // the most that QEMU gives a controller
static_assert(config::kMostUsbDevices < kUsbPorts);

/// What current Windows guests ask for; an enlightenment may need one before it (QEMU's
/// docs/system/i386/hyperv.rst). The lock is retried as often as that document advises.
constexpr std::string_view kEnlightenments =
    ",hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-time,hv-stimer,"
    "hv-frequencies,hv-tlbflush,hv-ipi";

/// More threads than that only wait for each other and for the memory.
constexpr unsigned kMostPreallocThreads = 8;

class Builder {
 public:
  Builder(const VmSpec& spec, const survey::Survey& survey, bool kvm, Plan& plan)
      : spec_(spec), survey_(survey), kvm_(kvm), plan_(plan) {}

  void build() {
    add("-name", "guest=" + spec_.name + ",process=" + spec_.name + ",debug-threads=on");
    add("-nodefaults");
    add("-no-user-config");
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    add("-S");
    monitor();
    machine();
    cpu();
    memory();
    linux_boot();
    uefi();
    disks();
    network();
    pci_devices();
    serial();
    usb();
    video();
    display();
    audio();
    clock();
    for (const std::string& argument : spec_.extra_args) {
      add(argument);
    }
  }

 private:
  void add(const std::string& argument) { plan_.qemu.arguments.push_back(argument); }
  void add(const std::string& option, const std::string& value) {
    add(option);
    add(value);
  }
  void add_json(const std::string& option, const Json& value) { add(option, value.dump()); }

  /// Reserves a number for a file and returns it.
  int use(FileUse file) {
    file.fd = kFirstFileFd + static_cast<int>(plan_.files.size());
    plan_.files.push_back(std::move(file));
    return plan_.files.back().fd;
  }

  /// For options that open their file through QEMU's own layer: a set of one descriptor. The flags
  /// that QEMU opens with must match the descriptor's.
  std::string fdset(FileUse file) {
    const std::string number = std::to_string(use(std::move(file)));
    add("-add-fd", "fd=" + number + ",set=" + number);
    return "/dev/fdset/" + number;
  }

  /// For options that open a path on their own.
  std::string reopened(const std::string& purpose, const std::string& path) {
    FileUse file{purpose, path};
    file.reopened = true;
    return "/proc/self/fd/" + std::to_string(use(std::move(file)));
  }

  void monitor() {
    add("-chardev", "socket,id=qmp,fd=" + std::to_string(kQmpFd));
    add("-mon", "chardev=qmp,mode=control");
  }

  void machine() {
    std::string options = std::string(to_string(spec_.machine)) + ",memory-backend=ram";
    if (spec_.uefi) {
      options += ",pflash0=uefi-code,pflash1=uefi-vars";
    }
    add("-machine", options);
    add("-accel", kvm_ ? "kvm" : "tcg");
  }

  void cpu() {
    std::string model = spec_.cpu.model.value_or(kvm_ ? "host" : "max");
    if (!kvm_ && model.substr(0, model.find(',')) == "host") {
      plan_.warnings.push_back("CPU model \"host\" needs KVM: \"max\" is used instead");
      model.replace(0, std::string("host").size(), "max");
    }
    add("-cpu", model + hypervisor());
    add("-smp",
        "cpus=" + std::to_string(spec_.cpu.count()) + ",sockets=" +
            std::to_string(spec_.cpu.sockets) + ",cores=" + std::to_string(spec_.cpu.cores) +
            ",threads=" + std::to_string(spec_.cpu.threads));
  }

  /// How KVM shows itself; in software there is none to show.
  std::string hypervisor() {
    const VmSpec::Cpu& cpu = spec_.cpu;
    if (!kvm_ && (cpu.hide_hypervisor || cpu.hyperv)) {
      plan_.warnings.emplace_back(
          "cpu.hide_hypervisor and cpu.hyperv need KVM: the guest is started without them");
    }
    std::string options = kvm_ && cpu.hide_hypervisor ? ",kvm=off" : "";
    if (kvm_ && cpu.hyperv) {
      options += kEnlightenments;
      options += cpu.hyperv->vendor_id ? ",hv-vendor-id=" + *cpu.hyperv->vendor_id : "";
    }
    return options;
  }

  void memory() {
    const base::ByteSize size = spec_.memory.size;
    add("-m", "size=" + std::to_string(size.bytes / base::kMiB) + "M");
    Json backend = {{"qom-type", "memory-backend-memfd"}, {"id", "ram"}, {"size", size.bytes}};
    if (!plan_.memory.nodes.empty()) {
      backend["host-nodes"] = plan_.memory.nodes;
      backend["policy"] = "bind";
    }
    if (plan_.memory.page) {
      // QEMU makes the threads one by one and lets each begin at once, which keeps the next from
      // being made while it runs; one that a context makes does not wait for that.
      add_json("-object", Json{{"qom-type", "thread-context"}, {"id", "prealloc"}});
      backend.update({{"hugetlb", true},
                      {"hugetlbsize", plan_.memory.page->bytes},
                      {"prealloc", true},
                      {"prealloc-threads", std::clamp(survey_.cpus, 1U, kMostPreallocThreads)},
                      {"prealloc-context", "prealloc"}});
    }
    add_json("-object", backend);
    if (spec_.memory.locked) {
      add("-overcommit", "mem-lock=on");
    }
  }

  void linux_boot() {
    if (!spec_.linux_boot) {
      return;
    }
    add("-kernel", reopened("kernel", spec_.linux_boot->kernel));
    if (spec_.linux_boot->initrd) {
      add("-initrd", reopened("initrd", *spec_.linux_boot->initrd));
    }
    if (!spec_.linux_boot->append.empty()) {
      add("-append", spec_.linux_boot->append);
    }
  }

  void flash(const char* node, FileUse file) {
    const bool readonly = file.access == FileUse::Access::read;
    const Json protocol = {{"driver", "file"},
                           {"filename", fdset(std::move(file))},
                           {"node-name", std::string(node) + "-file"},
                           {"read-only", readonly}};
    add_json("-blockdev", protocol);
    add_json("-blockdev",
             Json{{"driver", "raw"},
                  {"file", std::string(node) + "-file"},
                  {"node-name", node},
                  {"read-only", readonly}});
  }

  void uefi() {
    if (!spec_.uefi) {
      return;
    }
    const bool complete = spec_.uefi->code && spec_.uefi->vars_template;
    if (!complete && !survey_.uefi) {
      throw Failure(ExitCode::preflight,
                    "Cannot find a UEFI build on this host, which \"uefi\": true needs; type: "
                    "apt install ovmf, or name one with \"code\" and \"template\" under "
                    "\"firmware\"");
    }
    const survey::Uefi host = survey_.uefi.value_or(survey::Uefi{});
    flash("uefi-code", {"UEFI code", spec_.uefi->code.value_or(host.code)});
    flash("uefi-vars",
          {"UEFI variables",
           spec_.uefi->vars,
           FileUse::Access::read_write,
           FileUse::Create::from_template,
           spec_.uefi->vars_template.value_or(host.vars_template)});
  }

  /// Each kind of device has slots of its own, so that a change of one kind does not move another:
  /// guests take a NIC in a new slot for a new NIC.
  Json device(const char* driver, const std::string& id, std::size_t slot) {
    std::array<char, 8> address{};
    static_cast<void>(std::snprintf(address.data(), address.size(), "0x%zx", slot));
    return {{"driver", driver},
            {"id", id},
            {"bus", spec_.machine == config::Machine::q35 ? "pcie.0" : "pci.0"},
            {"addr", address.data()}};
  }

  void disks() {
    scsi_controller();
    for (std::size_t i = 0; i < spec_.disks.size(); ++i) {
      disk(spec_.disks[i], "disk" + std::to_string(i), i);
    }
  }

  /// One for all, in the slot of its first disk, which needs none itself. QEMU runs a controller
  /// and all its disks in one thread.
  void scsi_controller() {
    const auto first = std::find_if(spec_.disks.begin(), spec_.disks.end(), is_scsi);
    if (first == spec_.disks.end()) {
      return;
    }
    const auto index = static_cast<std::size_t>(first - spec_.disks.begin());
    const bool wants_thread = std::any_of(first, spec_.disks.end(), [](const VmSpec::Disk& disk) {
      return is_scsi(disk) && disk.iothread;
    });
    Json controller = device("virtio-scsi-pci", "scsi", kFirstDiskSlot + index);
    if (wants_thread) {
      controller["iothread"] = iothread("scsi");
    }
    add_json("-device", controller);
  }

  static bool is_scsi(const VmSpec::Disk& disk) { return disk.bus == config::DiskBus::virtio_scsi; }

  std::string iothread(const std::string& owner) {
    const std::string id = "iothread-" + owner;
    add_json("-object", Json{{"qom-type", "iothread"}, {"id", id}});
    return id;
  }

  void disk(const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
    image(disk, id, index);
    Json front = drive(disk, id, index);
    front["drive"] = id;
    front["bootindex"] = index + 1;  // 0 is the loader's that -kernel brings along
    if (disk.cache == config::DiskCache::writethrough) {
      front["write-cache"] = "off";
    }
    if (disk.serial) {
      front["serial"] = *disk.serial;
    }
    add_json("-device", front);
  }

  /// The host's side of a disk.
  void image(const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
    FileUse file{"disk " + std::to_string(index),
                 disk.path,
                 disk.readonly ? FileUse::Access::read : FileUse::Access::read_write};
    file.is_qcow2 = disk.format == config::DiskFormat::qcow2;
    file.direct = disk.cache == config::DiskCache::none;
    const bool is_block = survey_.block_devices.contains(disk.path);
    Json protocol = {{"driver", is_block ? "host_device" : "file"},
                     {"filename", fdset(file)},
                     {"node-name", id + "-file"},
                     {"read-only", disk.readonly},
                     {"discard", "unmap"}};
    if (disk.aio == config::DiskAio::native) {
      protocol["aio"] = "native";
    }
    Json format = {{"driver", to_string(disk.format)},
                   {"file", id + "-file"},
                   {"node-name", id},
                   {"read-only", disk.readonly},
                   {"discard", "unmap"}};
    if (file.is_qcow2) {
      format["backing"] = nullptr;  // a guest's own header must not name further files
    }
    for (Json* node : {&protocol, &format}) {  // none takes it from another
      if (file.direct) {
        (*node)["cache"] = {{"direct", true}};
      } else if (disk.cache == config::DiskCache::unsafe) {
        (*node)["cache"] = {{"no-flush", true}};
      }
      add_json("-blockdev", *node);
    }
  }

  /// The guest's side of it.
  Json drive(const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
    const bool is_cdrom = disk.type == config::DiskType::cdrom;
    const std::string name = id + "-device";
    switch (disk.bus) {
      case config::DiskBus::virtio_blk:
        break;
      case config::DiskBus::virtio_scsi:
        return {{"driver", is_cdrom ? "scsi-cd" : "scsi-hd"},
                {"id", name},
                {"bus", "scsi.0"},
                {"scsi-id", index}};
      case config::DiskBus::sata:
        return {{"driver", is_cdrom ? "ide-cd" : "ide-hd"},
                {"id", name},
                {"bus", "ide." + std::to_string(sata_port_++)}};
    }
    Json front = device("virtio-blk-pci", name, kFirstDiskSlot + index);
    if (disk.iothread) {
      front["iothread"] = iothread(id);
    }
    return front;
  }

  void network() {
    for (std::size_t i = 0; i < spec_.network.size(); ++i) {
      nic(spec_.network[i], i);
    }
  }

  Json user_backend(const VmSpec::Nic& nic) {
    Json backend = {{"type", "user"}};
    Json forwards = Json::array();
    for (const config::PortForward& forward : nic.forwards) {
      forwards.push_back(
          {{"str",
            std::string(forward.protocol == config::PortForward::Protocol::tcp ? "tcp" : "udp") +
                ":" + forward.host_address + ":" + std::to_string(forward.host_port) +
                "-:" + std::to_string(forward.guest_port)}});
    }
    if (!forwards.empty()) {
      backend["hostfwd"] = forwards;
    }
    return backend;
  }

  Json tap_backend(const VmSpec::Nic& nic, unsigned index) {
    Json backend = {{"type", "tap"}, {"fd", std::to_string(steps::tap_fd(index))}};
    if (uses_vhost(nic, survey_)) {
      backend["vhost"] = true;
      backend["vhostfd"] = std::to_string(steps::vhost_fd(index));
    }
    return backend;
  }

  void nic(const VmSpec::Nic& nic, std::size_t index) {
    const std::string number = std::to_string(index);
    Json backend = nic.kind == config::NicKind::user
                       ? user_backend(nic)
                       : tap_backend(nic, static_cast<unsigned>(index));
    backend["id"] = "net" + number;
    add_json("-netdev", backend);
    Json front = device(nic.model == config::NicModel::virtio ? "virtio-net-pci" : "e1000e",
                        "nic" + number,
                        kFirstNicSlot + index);
    front["netdev"] = "net" + number;
    front["romfile"] = "";  // guests boot from disks and kernels
    if (nic.mac) {
      front["mac"] = nic.mac->text;
    }
    add_json("-device", front);
  }

  /// Each card on a root port of its own, as on a real board: guests may power it down and up, and
  /// the kernel can ask for it back.
  void pci_devices() {
    const auto& slots = plan_.passthrough.slots;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const std::string port = "port" + std::to_string(i);
      Json bridge = device("pcie-root-port", port, kFirstPortSlot + i / kPortsPerSlot);
      bridge["addr"] =
          bridge["addr"].get<std::string>() + ".0x" + std::to_string(i % kPortsPerSlot);
      bridge["multifunction"] = true;
      bridge["chassis"] = i + 1;
      add_json("-device", bridge);
      for (std::size_t k = 0; k < slots[i].size(); ++k) {
        Json card = {{"driver", "vfio-pci"},
                     {"id", "pci" + std::to_string(i) + "." + std::to_string(k)},
                     {"host", base::to_string(slots[i][k])},
                     {"bus", port},
                     {"addr", "0x0.0x" + std::to_string(k)}};
        if (slots[i].size() > 1) {
          card["multifunction"] = true;
        }
        view(slots[i][k], card);
        add_json("-device", card);
      }
    }
  }

  void view(const base::PciAddress& address, Json& card) {
    const auto found = plan_.passthrough.views.find(address);
    if (found == plan_.passthrough.views.end()) {
      return;
    }
    const VmSpec::PciView& view = found->second;
    if (view.rom) {
      card["romfile"] = reopened("ROM of " + base::to_string(address), *view.rom);
    }
    if (!view.rombar) {
      card["rombar"] = 0;
    }
    if (view.x_vga) {
      card["x-vga"] = true;
    }
  }

  /// QEMU looks for what is missing every two seconds, and takes it when it is there.
  void usb() {
    if (spec_.usb.empty()) {
      return;
    }
    Json controller = device("qemu-xhci", "usb", kUsbSlot);
    controller["p2"] = kUsbPorts;
    controller["p3"] = kUsbPorts;
    add_json("-device", controller);
    for (std::size_t i = 0; i < spec_.usb.size(); ++i) {
      Json host = {
          {"driver", "usb-host"}, {"id", "usb-host" + std::to_string(i)}, {"bus", "usb.0"}};
      host.update(match(spec_.usb[i].device));
      add_json("-device", host);
    }
  }

  /// What QEMU finds the device by.
  static Json match(const config::UsbRule& rule) {
    if (const auto* ids = std::get_if<config::UsbIds>(&rule)) {
      return {{"vendorid", ids->vendor}, {"productid", ids->product}};
    }
    if (const auto* port = std::get_if<config::UsbPort>(&rule)) {
      return {{"hostbus", port->bus}, {"hostport", path_of(*port)}};
    }
    const auto& address = std::get<config::UsbAddress>(rule);
    return {{"hostbus", address.bus}, {"hostaddr", address.device}};
  }

  void serial() {
    if (spec_.serial.kind == config::Serial::Kind::none) {
      return;
    }
    if (spec_.serial.kind == config::Serial::Kind::stdio) {
      // Never the terminal itself: a hostile guest's QEMU could type into it.
      plan_.qemu.serial_stdio = true;
      add("-chardev", "socket,id=serial0,fd=" + std::to_string(kSerialFd));
    } else {
      const std::string path =
          fdset({"serial log", spec_.serial.file, FileUse::Access::append, FileUse::Create::empty});
      add("-chardev", "file,id=serial0,append=on,path=" + path);
    }
    add("-serial", "chardev:serial0");
  }

  void display() {
    if (!spec_.display.vnc) {
      add("-display", "none");
      return;
    }
    add("-vnc", spec_.display.vnc->address + ":" + std::to_string(spec_.display.vnc->port - 5900));
    if (spec_.usb.empty()) {
      add_json("-device", device("qemu-xhci", "usb", kUsbSlot));
    }
    add_json("-device", Json{{"driver", "usb-tablet"}, {"id", "tablet"}, {"bus", "usb.0"}});
  }

  void video() {
    switch (spec_.video) {
      case config::Video::none:
        return;
      case config::Video::vga:
        return add_json("-device", device("VGA", "screen", kScreenSlot));
      case config::Video::qxl:
        return add_json("-device", device("qxl-vga", "screen", kScreenSlot));
      case config::Video::virtio:
        return add_json("-device", device("virtio-vga", "screen", kScreenSlot));
    }
  }

  void audio() {
    if (!spec_.audio) {
      return;
    }
    Json backend = {{"id", "audio"}, {"driver", "none"}};
    if (const auto server = sound_server(*spec_.audio)) {
      backend["driver"] = "pa";
      backend["server"] = *server;
    }
    add_json("-audiodev", backend);
    add_json("-device", device("ich9-intel-hda", "sound", kSoundSlot));
    const bool is_micro = spec_.audio->device == config::AudioDevice::hda_micro;
    add_json("-device",
             Json{{"driver", is_micro ? "hda-micro" : "hda-duplex"},
                  {"id", "codec"},
                  {"bus", "sound.0"},
                  {"audiodev", "audio"}});
  }

  /// QEMU does not start without the server that it is told of. PipeWire listens like PulseAudio,
  /// for which QEMU has a driver in all versions.
  std::optional<std::string> sound_server(const VmSpec::Audio& audio) {
    if (audio.backend == config::AudioBackend::none) {
      return std::nullopt;
    }
    const auto& credentials = plan_.qemu.user.credentials;
    if (!audio.server && !credentials) {
      plan_.warnings.emplace_back(
          "QEMU's user has no sound server: the guest is not heard; name one in audio.server, or a "
          "user in run_as");
      return std::nullopt;
    }
    const std::string path =
        audio.server ? *audio.server : survey::sound_socket_of(std::to_string(credentials->uid));
    if (!survey_.sound_servers.contains(path)) {
      plan_.warnings.push_back("there is no sound server at " + base::printable(path) +
                               ": the guest is not heard; type: ls -l " + base::shell_quote(path));
      return std::nullopt;
    }
    if (audio.backend == config::AudioBackend::pipewire) {
      plan_.warnings.push_back("QEMU speaks to PipeWire as to PulseAudio, at " +
                               base::printable(path));
    }
    return path;
  }

  /// Windows keeps local time in the clock, and counts its ticks: what it missed is sent later.
  void clock() {
    if (spec_.rtc_base == config::RtcBase::localtime) {
      add("-rtc", "base=localtime,driftfix=slew");
    }
  }

  const VmSpec& spec_;
  const survey::Survey& survey_;
  bool kvm_;
  Plan& plan_;
  std::size_t sata_port_ = 0;
};

}  // namespace

void add_qemu_arguments(const VmSpec& spec, const survey::Survey& survey, bool kvm, Plan& plan) {
  Builder(spec, survey, kvm, plan).build();
}

}  // namespace vmlaunch::launcher::plan
