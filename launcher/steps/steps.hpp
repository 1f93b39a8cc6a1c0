#pragma once

#include <string>

#include "base/pci_address.hpp"
#include "launcher/steps/step.hpp"

/// The steps that there are. The file of its name says what each does; `from` is the driver that
/// the survey found, "" for none.
namespace vmlaunch::launcher::steps {

/// What a NIC's steps have in common.
struct NicPart {
  unsigned nic = 0;    ///< of the config, from 0
  std::string link;    ///< the host's: bridge, tap, or what a macvtap is made on
  bool vhost = false;  ///< the kernel carries the packets (/dev/vhost-net), not QEMU

  bool operator==(const NicPart&) const = default;
};

/// Where QEMU finds a NIC's tap and vhost: numbers above those of files.
constexpr int kFirstNicFd = 256;
[[nodiscard]] constexpr int tap_fd(unsigned nic) {
  return kFirstNicFd + 2 * static_cast<int>(nic);
}
[[nodiscard]] constexpr int vhost_fd(unsigned nic) {
  return tap_fd(nic) + 1;
}

[[nodiscard]] Step make_cgroup(std::string vm);
[[nodiscard]] Step load_vfio();
[[nodiscard]] Step keep_awake(const base::PciAddress& device);
[[nodiscard]] Step override_driver(const base::PciAddress& device, std::string from);
[[nodiscard]] Step bind_driver(const base::PciAddress& device, std::string from);
[[nodiscard]] Step make_tap(std::string vm, NicPart part, std::string mac);
[[nodiscard]] Step use_tap(NicPart part);
[[nodiscard]] Step make_macvtap(std::string vm, NicPart part, std::string mac);
[[nodiscard]] Step start_qemu(bool in_cgroup);

/// The name of the link that is made for a NIC. At most 15 characters, as the kernel has it: begins
/// like the VM's, and differs as that does.
[[nodiscard]] std::string own_link_name(const std::string& vm, unsigned nic);

/// Where make_cgroup makes the cgroup of a VM. Throws Failure (preflight) where cgroup2 cannot be
/// used.
[[nodiscard]] std::string cgroup_of(const Host& host, const std::string& vm);

/// A path that cgroup_of can have given, or "". Throws FormError for any other.
[[nodiscard]] std::string read_cgroup(Fields& fields, const char* key);

}  // namespace vmlaunch::launcher::steps
