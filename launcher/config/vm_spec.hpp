#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/config/config.hpp"

namespace vmlaunch::launcher::config {

/// What the root bus has room for.
constexpr std::size_t kMostDisks = 16;
constexpr std::size_t kMostImages = 8;     ///< beneath a disk
constexpr std::size_t kMostSataDisks = 6;  ///< ports of q35's own controller
constexpr std::size_t kMostNics = 8;
constexpr std::size_t kMostPciDevices = 16;

constexpr std::size_t kMostUsbDevices = 14;  ///< ports of a controller, one for the tablet

constexpr std::size_t kMostUnits = 16;

/// What both machine types take without an extended interrupt mode.
constexpr unsigned kMostVcpus = 255;

/// A virtual machine as it is to be: checked, every default filled in, every path absolute.
struct VmSpec {
  struct Cpu {
    std::optional<std::string> model;  ///< nothing: the best that the accelerator offers
    unsigned sockets = 1;
    unsigned cores = 1;
    unsigned threads = 1;
    bool hide_hypervisor = false;  ///< that it is KVM
    std::optional<Hyperv> hyperv;
    Pin pin;
    std::optional<base::CpuSet> emulator;  ///< nothing: the host's CPUs that no vCPU has
    std::optional<Realtime> realtime;      ///< nothing: as the CPUs allow
    std::set<Isolation> isolate;
    std::optional<unsigned> weight;  ///< of the VM's cgroup; nothing: as the CPUs ask for
    bool halt_polling = true;        ///< KVM waits for a vCPU that has nothing to do as it does
    std::optional<bool> power_management;  ///< an idle vCPU halts its CPU itself; nothing: as the
                                           ///< CPUs allow

    [[nodiscard]] unsigned count() const { return sockets * cores * threads; }
  };
  struct HugePages {
    base::ByteSize size;
    MemoryFallback fallback = MemoryFallback::none;
    bool compact = true;       ///< the kernel may move memory together for them
    bool drop_caches = false;  ///< it may drop what it has cached of the host's files
  };
  struct Memory {
    base::ByteSize size{base::kGiB};
    std::optional<HugePages> hugepages;
    std::vector<unsigned> nodes;  ///< none: where it is best, for huge pages; else anywhere
    bool locked = false;          ///< none of QEMU's memory is ever swapped out
  };
  struct Linux {
    std::string kernel;
    std::optional<std::string> initrd;
    std::string append;
  };
  struct Uefi {
    std::string vars;
    std::optional<std::string> code;           ///< nothing: the host's
    std::optional<std::string> vars_template;  ///< nothing: the host's
  };
  struct Image {
    std::string path;
    DiskFormat format = DiskFormat::raw;
  };
  struct Disk : Image {
    std::vector<Image> backing;  ///< the images beneath it, from the nearest to the last
    bool readonly = false;
    DiskType type = DiskType::disk;
    DiskBus bus = DiskBus::virtio_blk;
    DiskCache cache = DiskCache::writeback;
    DiskAio aio = DiskAio::threads;
    bool iothread = false;
    std::optional<std::string> serial;
  };
  struct Nic {
    NicKind kind = NicKind::user;
    std::string link;                   ///< of the host; for all kinds but user
    std::vector<PortForward> forwards;  ///< of user
    NicModel model = NicModel::virtio;
    std::optional<MacAddress> mac;  ///< nothing: QEMU's, for user alone
  };

  /// What the guest sees of a function of the host.
  struct PciView {
    std::optional<std::string> rom;  ///< nothing: the function's own
    bool rombar = true;
    bool x_vga = false;

    bool operator==(const PciView&) const = default;
  };
  struct Pci {
    std::vector<PciSelector> device;  ///< the first of them that is there and free
    bool all_functions = false;       ///< the guest gets every function of the slot
    bool whole_group = false;         ///< the host gives up every device of the IOMMU group
    std::optional<PciIds> expect;
    PciView view;                               ///< of the listed function alone
    base::Milliseconds release_timeout{15000};  ///< for those who have the device open to close it
    PciTaker driver = PciTaker::vfio;
    bool rescan = false;  ///< the card is removed and found anew before the guest gets it
    OnNoReset on_no_reset;
  };

  struct Usb {
    UsbRule device;
    bool optional = false;  ///< it may be missing at the start, and come later
  };

  struct Audio {
    AudioBackend backend = AudioBackend::none;
    AudioDevice device = AudioDevice::hda;
    std::optional<std::string> server;  ///< nothing: that of QEMU's user
  };

  std::string file;  ///< the config's absolute path
  std::string name;
  Machine machine = Machine::q35;
  Accel accel = Accel::automatic;
  Cpu cpu;
  Memory memory;
  std::map<std::string, bool> module_parameters;  ///< "kvm.ignore_msrs": on or off
  std::optional<Linux> linux_boot;
  std::optional<Uefi> uefi;
  std::vector<Disk> disks;
  std::vector<Nic> network;
  std::vector<Pci> pci;
  std::vector<Usb> usb;
  bool single_gpu = false;  ///< the host may lose its last GPU, which its own screen is on
  std::vector<std::string> stop_units;  ///< units of systemd that do not run while the VM does
  std::set<Hotplug> hotplug;            ///< what may be plugged in while the VM runs
  Display display;
  Video video = Video::none;
  std::optional<Audio> audio;
  Serial serial;
  RtcBase rtc_base = RtcBase::utc;
  std::optional<bool> hpet;  ///< nothing: not with KVM
  OnReboot on_reboot = OnReboot::reset;
  std::string qemu_binary = "/usr/bin/qemu-system-x86_64";
  std::vector<std::string> extra_args;
  std::optional<std::string> run_as;
  Sandbox sandbox = Sandbox::on;
  bool force_tainted = false;  ///< devices that did not come back from a guest; never a config's
  base::Milliseconds stop_timeout{60000};
};

/// Whether it can be a VM's name: it becomes one of files, cgroups and processes.
[[nodiscard]] bool is_vm_name(std::string_view name);

/// Parses and checks a whole config. `path` is the config's absolute path: its folder is what
/// relative paths start from, its name the VM's if none is given. Throws ConfigError with every
/// problem at once.
[[nodiscard]] VmSpec load(const Document& document, const std::string& path);

}  // namespace vmlaunch::launcher::config
