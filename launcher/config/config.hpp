#pragma once

#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/byte_size.hpp"
#include "base/cpu_set.hpp"
#include "base/duration.hpp"
#include "base/pci_address.hpp"
#include "launcher/config/document.hpp"
#include "launcher/config/usb_rule.hpp"
#include "launcher/config/values.hpp"

namespace vmlaunch::launcher::config {

/// The most memory nodes that a kernel can have (CONFIG_NODES_SHIFT is at most 10).
constexpr unsigned kMostNodes = 1024;

constexpr unsigned kMostRedirected = 4;

enum class Machine { q35, pc };
enum class Accel { automatic, kvm, tcg };
enum class DiskFormat { raw, qcow2 };
enum class DiskBus { virtio_blk, virtio_scsi, sata };
enum class DiskType { disk, cdrom };
enum class DiskCache { writeback, none, writethrough, unsafe };
enum class DiskAio { threads, native, io_uring };
enum class NicModel { virtio, e1000e };
enum class Video { none, vga, qxl, virtio };
enum class AudioBackend { none, pulse, pipewire };
enum class AudioDevice { hda, hda_micro };
enum class RtcBase { utc, localtime };
/// What of QEMU's system calls is watched: those that its devices do not need are refused, or only
/// told, or none is.
enum class Sandbox { on, log, off };
/// What may be given to a VM that runs.
enum class Hotplug { usb, disk, pci, net };
/// What carries a NIC's packets: QEMU itself, or a network link of the host.
enum class NicKind { user, bridge, tap, macvtap };
/// What else than the listed function is meant: the guest gets all functions of its slot; all of
/// its IOMMU group is taken.
enum class PciScope { listed, all };
/// What takes a device from the host: for the guest, or only to keep it from everybody.
enum class PciTaker { vfio, stub };
constexpr const char* kVfioDriver = "vfio-pci";
constexpr const char* kStubDriver = "pci-stub";

/// Ways to reset a card that the host may feel.
enum class ResetRung {
  rescan,  ///< the card is removed and found anew
  bridge,  ///< its bridge resets all that is below (reset_subordinate, Linux 6.13)
};

/// What becomes of a guest that reboots.
enum class OnReboot {
  reset,    ///< QEMU resets it
  restart,  ///< QEMU is ended, the devices are reset, and QEMU is started anew
};

/// What is done about a card that has no reset.
struct OnNoReset {
  bool refuse = false;             ///< it is not given to a guest
  std::set<ResetRung> rungs = {};  ///< tried after all others

  bool operator==(const OnNoReset&) const = default;
};

/// The parts of Hyper-V's interface, as QEMU names them ("hv-relaxed").
inline constexpr std::array kEnlightenments = {"relaxed",
                                               "vapic",
                                               "spinlocks",
                                               "vpindex",
                                               "runtime",
                                               "synic",
                                               "time",
                                               "stimer",
                                               "stimer-direct",
                                               "frequencies",
                                               "tlbflush",
                                               "ipi",
                                               "avic"};

/// Hyper-V's interface, which Windows guests know better than KVM's.
struct Hyperv {
  std::optional<std::string> vendor_id;  ///< nothing: the one of Hyper-V itself
  std::set<std::string> without;         ///< of kEnlightenments those that are left out

  bool operator==(const Hyperv&) const = default;
};

/// On which of the host's CPUs the vCPUs run.
struct Pin {
  enum class Kind { none, automatic, set, map };

  Kind kind = Kind::none;
  base::CpuSet set;               ///< one for each; threads of a core go to threads of a core
  std::vector<base::CpuSet> map;  ///< by the vCPUs' numbers

  bool operator==(const Pin&) const = default;
};

/// How the kernel schedules the vCPUs' threads (sched(7)).
enum class Policy { other, round_robin, fifo };

struct Realtime {
  Policy policy = Policy::round_robin;
  unsigned priority = 1;   ///< 1 to 99; from 50 on also before the threads of interrupts
  bool from_start = true;  ///< else only once the guest runs
  bool force = false;      ///< also on CPUs that the host uses

  bool operator==(const Realtime&) const = default;
};

/// What of the host is kept off the vCPUs' CPUs, and how fast they run.
enum class Isolation { tasks, interrupts, kernel, frequency };

/// What becomes of huge pages that cannot be had: the run is refused, or takes the next smaller
/// pages.
enum class MemoryFallback { none, smaller };

/// Where the guest's first serial port goes.
struct Serial {
  enum class Kind { none, stdio, file };

  Kind kind = Kind::none;
  std::string file;

  bool operator==(const Serial&) const = default;
};

/// The guest's screen: none, a server on an address of the host, or a window on its desktop.
struct Display {
  enum class Kind { none, vnc, spice, gtk, sdl };

  Kind kind = Kind::none;
  Endpoint address;         ///< a server's
  unsigned redirected = 0;  ///< USB devices that a SPICE viewer may plug in

  [[nodiscard]] bool is_shown() const { return kind != Kind::none; }
  [[nodiscard]] bool is_server() const { return kind == Kind::vnc || kind == Kind::spice; }
  [[nodiscard]] bool is_window() const { return kind == Kind::gtk || kind == Kind::sdl; }

  bool operator==(const Display&) const = default;
};

/// A config as it was written: every value has its type, nothing is filled in or checked against
/// anything else.
struct Config {
  struct Cpu {
    std::optional<std::string> model;
    std::optional<unsigned> sockets;
    std::optional<unsigned> cores;
    std::optional<unsigned> threads;
    std::optional<bool> hide_hypervisor;
    std::optional<Hyperv> hyperv;
    std::optional<Pin> pin;
    std::optional<base::CpuSet> emulator;
    std::optional<Realtime> realtime;  ///< nothing: as the CPUs allow
    std::vector<Isolation> isolate;
    std::optional<unsigned> weight;
    std::optional<bool> halt_polling;
    std::optional<bool> power_management;
  };
  struct Memory {
    std::optional<base::ByteSize> size;
    std::optional<base::ByteSize> hugepages;
    std::optional<unsigned> node;
    std::vector<std::optional<unsigned>> nodes;  ///< nothing for what could not be read
    std::optional<MemoryFallback> fallback;
    std::optional<bool> compact;
    std::optional<bool> drop_caches;
    std::optional<bool> locked;
  };
  struct Firmware {
    std::optional<bool> uefi;
    std::optional<std::string> vars;
    std::optional<std::string> code;
    std::optional<std::string> vars_template;
  };
  struct Image {
    std::optional<std::string> path;
    std::optional<DiskFormat> format;
  };
  struct Disk {
    std::optional<std::string> path;
    std::optional<DiskFormat> format;
    std::vector<Image> backing;
    std::optional<bool> readonly;
    std::optional<DiskType> type;
    std::optional<DiskBus> bus;
    std::optional<DiskCache> cache;
    std::optional<DiskAio> aio;
    std::optional<bool> iothread;
    std::optional<std::string> serial;
  };
  struct Nic {
    std::vector<NicKind> kinds;                        ///< those that are given; one is right
    std::optional<std::string> link;                   ///< the last that was read
    std::vector<std::optional<PortForward>> forwards;  ///< nothing for what could not be read
    std::optional<NicModel> model;
    std::optional<MacAddress> mac;
  };
  struct Pci {
    std::vector<PciSelector> device;  ///< any of them; none for what could not be read
    std::optional<PciScope> functions;
    std::optional<PciScope> group;
    std::optional<PciIds> expect;
    std::optional<std::string> rom;
    std::optional<bool> rombar;
    std::optional<bool> x_vga;
    std::optional<base::Milliseconds> release_timeout;
    std::optional<PciTaker> driver;
    std::optional<bool> rescan;
    std::optional<OnNoReset> on_no_reset;
  };
  struct Usb {
    std::vector<const char*> ways;  ///< keys that say which device is meant; one is right
    std::optional<UsbRule> device;  ///< the last that was read
    std::optional<bool> optional;
  };
  struct Audio {
    std::optional<AudioBackend> backend;
    std::optional<AudioDevice> device;
    std::optional<std::string> server;
  };
  struct Qemu {
    std::optional<std::string> binary;
    std::vector<std::string> extra_args;
  };

  std::optional<std::string> name;
  std::optional<Machine> machine;
  std::optional<Accel> accel;
  Cpu cpu;
  Memory memory;
  std::map<std::string, bool> module_parameters;
  std::optional<std::string> kernel;
  std::optional<std::string> initrd;
  std::optional<std::string> append;
  Firmware firmware;
  std::vector<Disk> disks;
  std::vector<Nic> network;
  std::vector<Pci> pci;
  std::vector<Usb> usb;
  std::optional<bool> single_gpu;
  std::vector<std::optional<std::string>> stop_units;  ///< nothing for what could not be read
  std::vector<Hotplug> hotplug;
  std::optional<Display> display;
  std::optional<Video> video;
  std::optional<Audio> audio;
  std::optional<Serial> serial;
  std::optional<RtcBase> rtc_base;
  std::optional<bool> hpet;
  std::optional<OnReboot> on_reboot;
  Qemu qemu;
  std::optional<std::string> run_as;
  std::optional<Sandbox> sandbox;
  std::optional<base::Milliseconds> stop_timeout;
};

/// The names that a config uses for these, and the inverse of each.
[[nodiscard]] const char* to_string(Machine machine);
[[nodiscard]] const char* to_string(Accel accel);
[[nodiscard]] const char* to_string(DiskFormat format);
[[nodiscard]] const char* to_string(DiskBus bus);
[[nodiscard]] const char* to_string(DiskType type);
[[nodiscard]] const char* to_string(DiskCache cache);
[[nodiscard]] const char* to_string(DiskAio aio);
[[nodiscard]] const char* to_string(NicModel model);
[[nodiscard]] const char* to_string(Video video);
[[nodiscard]] const char* to_string(AudioBackend backend);
[[nodiscard]] const char* to_string(AudioDevice device);
[[nodiscard]] const char* to_string(RtcBase base);
[[nodiscard]] const char* to_string(Sandbox sandbox);
[[nodiscard]] const char* to_string(Display::Kind kind);
[[nodiscard]] const char* to_string(NicKind kind);
[[nodiscard]] const char* to_string(PciScope scope);
[[nodiscard]] const char* to_string(PciTaker taker);
[[nodiscard]] const char* to_string(ResetRung rung);
[[nodiscard]] const char* to_string(OnReboot on_reboot);
[[nodiscard]] const char* to_string(MemoryFallback fallback);
[[nodiscard]] const char* to_string(Policy policy);

[[nodiscard]] const std::vector<std::pair<const char*, Sandbox>>& sandbox_names();
[[nodiscard]] const std::vector<std::pair<const char*, Hotplug>>& hotplug_names();
[[nodiscard]] const std::vector<std::pair<const char*, ResetRung>>& rung_names();
[[nodiscard]] std::vector<std::string> names_of(const std::set<Hotplug>& kinds);
[[nodiscard]] std::vector<std::string> names_of(const std::set<Isolation>& kinds);

/// Whether a config may set it: "kvm.ignore_msrs".
[[nodiscard]] bool is_module_parameter(std::string_view name);

/// Reads the types. What is wrong is added to `issues`, and that value left out.
[[nodiscard]] Config parse(const Document& document, std::vector<Issue>& issues);

}  // namespace vmlaunch::launcher::config
