#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/config/config.hpp"

namespace vmlaunch::launcher::config {

/// What the root bus has room for.
constexpr std::size_t kMostDisks = 16;
constexpr std::size_t kMostNics = 8;
constexpr std::size_t kMostPciDevices = 16;

/// A virtual machine as it is to be: checked, every default filled in, every path absolute.
struct VmSpec {
  struct Cpu {
    std::optional<std::string> model;  ///< nothing: the best that the accelerator offers
    unsigned sockets = 1;
    unsigned cores = 1;
    unsigned threads = 1;

    [[nodiscard]] unsigned count() const { return sockets * cores * threads; }
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
  struct Disk {
    std::string path;
    DiskFormat format = DiskFormat::raw;
    bool readonly = false;
  };
  struct Nic {
    NicKind kind = NicKind::user;
    std::string link;                   ///< of the host; for all kinds but user
    std::vector<PortForward> forwards;  ///< of user
    NicModel model = NicModel::virtio;
    std::optional<MacAddress> mac;  ///< nothing: QEMU's, for user alone
  };

  struct Pci {
    base::PciAddress device;
    bool all_functions = false;  ///< the guest gets every function of the slot
    bool whole_group = false;    ///< the host gives up every device of the IOMMU group
    std::optional<PciIds> expect;
  };

  std::string name;
  Machine machine = Machine::q35;
  Accel accel = Accel::automatic;
  Cpu cpu;
  base::ByteSize memory{base::kGiB};
  std::optional<Linux> linux_boot;
  std::optional<Uefi> uefi;
  std::vector<Disk> disks;
  std::vector<Nic> network;
  std::vector<Pci> pci;
  Display display;
  Serial serial;
  std::string qemu_binary = "/usr/bin/qemu-system-x86_64";
  std::vector<std::string> extra_args;
  std::optional<std::string> run_as;
  base::Milliseconds stop_timeout{60000};
};

/// Whether it can be a VM's name: it becomes one of files, cgroups and processes.
[[nodiscard]] bool is_vm_name(std::string_view name);

/// Parses and checks a whole config. `path` is the config's absolute path: its folder is what
/// relative paths start from, its name the VM's if none is given. Throws ConfigError with every
/// problem at once.
[[nodiscard]] VmSpec load(const Document& document, const std::string& path);

/// The same as a config again, with every default written out.
[[nodiscard]] Json effective(const VmSpec& spec);

}  // namespace vmlaunch::launcher::config
