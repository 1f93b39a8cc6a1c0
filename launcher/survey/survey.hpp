#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/tree.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/identity.hpp"
#include "launcher/survey/cpus.hpp"
#include "launcher/survey/links.hpp"
#include "launcher/survey/memory.hpp"
#include "launcher/survey/pci.hpp"
#include "launcher/survey/realtime.hpp"
#include "launcher/survey/screen.hpp"
#include "launcher/survey/session.hpp"
#include "launcher/survey/usb.hpp"
#include "launcher/survey/uses.hpp"
#include "launcher/survey/window_server.hpp"

namespace vmlaunch::launcher::survey {

/// What the host has for KVM.
struct Kvm {
  bool node = false;  ///< /dev/kvm exists
  bool usable_by_caller = false;
  std::string group;           ///< whose members may open it, "" if none but root's may
  bool vendor_module = false;  ///< kvm_intel or kvm_amd: runs any guest
  bool pvm_module = false;     ///< kvm_pvm: runs only guests made for it

  bool operator==(const Kvm&) const = default;
};

[[nodiscard]] Kvm look_at_kvm(const base::Tree& tree);

/// A UEFI build: the code, and the template that a VM's variables start from.
struct Uefi {
  std::string code;
  std::string vars_template;

  bool operator==(const Uefi&) const = default;
};

/// Where distributions put their builds; the first pair that is complete is taken.
inline constexpr std::array<std::array<const char*, 2>, 4> kUefiBuilds = {{
    {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
    {"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
    {"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
    {"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
}};

/// How a qcow2 image begins (docs/interop/qcow2.txt of QEMU).
inline constexpr std::string_view kQcow2Magic = "QFI\xfb";

/// What keeps users from namespaces of their own, in which QEMU is confined without root.
struct NamespaceLimits {
  bool apparmor = false;   ///< programs without a profile may not (Ubuntu since 23.10)
  bool forbidden = false;  ///< nobody but root may (Debian's kernel.unprivileged_userns_clone)
  bool exhausted = false;  ///< there may be none (user.max_user_namespaces)
};

/// Everything about the host that a plan depends on. Read only, nothing is changed.
struct Survey {
  Kvm kvm;
  std::optional<Uefi> uefi;
  std::optional<User> run_as;           ///< whom the config's run_as names
  std::set<std::string> block_devices;  ///< those of the config's disks that are block devices
  std::set<std::string> qcow2_heads;    ///< those given as raw that begin like a qcow2 image
  std::set<std::string> sound_servers;  ///< sockets that are there, or that the caller may not see
  WindowServer window_server;           ///< looked at only for a VM that is shown in a window
  NamespaceLimits namespaces;
  bool cgroup = false;         ///< a cgroup for the VM can be made
  bool guardian_unit = false;  ///< systemd keeps the guardian, with cgroups of its own
  Session session;             ///< looked at only for a VM that stops units
  Pci pci;                     ///< looked at only for a VM that gets PCI devices
  Usb usb;                     ///< looked at only for a VM that gets USB devices
  Uses uses;                   ///< what the host uses its devices for
  bool vendor_reset = false;   ///< the kernel module of that name is loaded, or can be
  Screen screen;               ///< the same
  std::map<base::PciAddress, std::string> had;     ///< by running VMs, with who has each; from the
                                                   ///< locks, which only their owner can read
  std::map<config::UsbRule, std::string> usb_had;  ///< the same for rules about USB devices
  std::set<std::string> open_usb;                  ///< USB devices whose node the caller may open
  std::set<unsigned> open_groups;                  ///< IOMMU groups whose node the caller may open
  std::map<std::string, Link> links;  ///< those that the config names and that are there
  bool vhost_net = false;             ///< /dev/vhost-net is there for the run
  std::vector<Node> nodes;            ///< looked at only for a VM that asks for huge pages or nodes
  unsigned cpus = 1;                  ///< how many the caller may use
  Cpus host_cpus;                     ///< looked at only for a VM whose vCPUs have CPUs of theirs
  RealtimeLimits realtime;            ///< the same
  std::string cpu_vendor;             ///< "AuthenticAMD", …; "" if it is not said
  /// Of Hyper-V's enlightenments those that KVM offers; nothing if it cannot be asked.
  std::optional<std::set<std::string>> hyperv;
  base::CpuSet cpuset;           ///< those that QEMU's cgroup may use; none: not said
  bool cpu_controllers = false;  ///< a VM's cgroup of root's can have a weight, and CPUs
  bool partitions = false;       ///< and an isolated partition of them
  std::map<unsigned, std::string> cpus_had;  ///< as `had`, for CPUs
  /// Devices that did not come back from a guest, with what is wrong.
  std::map<base::PciAddress, std::string> tainted;
  std::map<std::string, bool>
      parameters;                   ///< those of the config's module parameters that are there
  std::uint64_t memlock_limit = 0;  ///< what the caller may let QEMU lock in memory, in bytes
};

/// Where a user's sound server listens.
[[nodiscard]] std::string sound_socket_of(const std::string& uid);

/// Throws Failure when run_as names nobody. `privileged`: the run changes the host as root,
/// whoever looks. Looks below `root`, so that a test can give a tree of
/// its own; "" is the host.
[[nodiscard]] Survey look(const std::string& root, const config::VmSpec& spec, bool privileged);

}  // namespace vmlaunch::launcher::survey
