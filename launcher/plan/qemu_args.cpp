#include "launcher/plan/qemu_args.hpp"

#include <array>
#include <cstdio>
#include <utility>

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
static_assert(kFirstPortSlot + (config::kMostPciDevices - 1) / kPortsPerSlot < 0x1f);

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
    display();
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
  std::string reopened(const char* purpose, const std::string& path) {
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
    add("-cpu", model);
    add("-smp",
        "cpus=" + std::to_string(spec_.cpu.count()) + ",sockets=" +
            std::to_string(spec_.cpu.sockets) + ",cores=" + std::to_string(spec_.cpu.cores) +
            ",threads=" + std::to_string(spec_.cpu.threads));
  }

  void memory() {
    add("-m", "size=" + std::to_string(spec_.memory.bytes / base::kMiB) + "M");
    add_json(
        "-object",
        Json{{"qom-type", "memory-backend-memfd"}, {"id", "ram"}, {"size", spec_.memory.bytes}});
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
    for (std::size_t i = 0; i < spec_.disks.size(); ++i) {
      disk(spec_.disks[i], "disk" + std::to_string(i), i);
    }
  }

  void disk(const VmSpec::Disk& disk, const std::string& id, std::size_t index) {
    FileUse file{"disk " + std::to_string(index),
                 disk.path,
                 disk.readonly ? FileUse::Access::read : FileUse::Access::read_write};
    file.is_qcow2 = disk.format == config::DiskFormat::qcow2;
    const bool is_block = survey_.block_devices.contains(disk.path);
    add_json("-blockdev",
             Json{{"driver", is_block ? "host_device" : "file"},
                  {"filename", fdset(file)},
                  {"node-name", id + "-file"},
                  {"read-only", disk.readonly},
                  {"discard", "unmap"}});
    Json format = {{"driver", to_string(disk.format)},
                   {"file", id + "-file"},
                   {"node-name", id},
                   {"read-only", disk.readonly},
                   {"discard", "unmap"}};
    if (file.is_qcow2) {
      format["backing"] = nullptr;  // a guest's own header must not name further files
    }
    add_json("-blockdev", format);
    Json front = device("virtio-blk-pci", id + "-device", kFirstDiskSlot + index);
    front["drive"] = id;
    front["bootindex"] = index + 1;  // 0 is the loader's that -kernel brings along
    add_json("-device", front);
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
        add_json("-device", card);
      }
    }
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
    add_json("-device", device("VGA", "screen", kScreenSlot));
    add_json("-device", device("qemu-xhci", "usb", kUsbSlot));
    add_json("-device", Json{{"driver", "usb-tablet"}, {"id", "tablet"}, {"bus", "usb.0"}});
  }

  const VmSpec& spec_;
  const survey::Survey& survey_;
  bool kvm_;
  Plan& plan_;
};

}  // namespace

void add_qemu_arguments(const VmSpec& spec, const survey::Survey& survey, bool kvm, Plan& plan) {
  Builder(spec, survey, kvm, plan).build();
}

}  // namespace vmlaunch::launcher::plan
