#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/pci_address.hpp"
#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// One PCI function as sysfs shows it.
struct PciFunction {
  base::PciAddress address;
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint32_t class_code = 0;  ///< 24 bits: class, subclass, programming interface
  std::uint8_t revision = 0;
  std::optional<std::string> driver;       ///< nothing: none is bound
  std::optional<unsigned> iommu_group;     ///< nothing: no IOMMU serves it (vfio's "noiommu" too)
  std::optional<base::PciAddress> bridge;  ///< the one it is behind; nothing on a root bus.
                                           ///< Bridges of bridges come to an end
  std::optional<unsigned> numa_node;       ///< the memory node that it is near to, if that is known
  std::vector<std::string> reset_methods;  ///< in the kernel's order; a hint only
  bool boot_vga = false;                   ///< the firmware's screen
  bool is_virtual = false;  ///< an SR-IOV function: a device of its own, whatever its
                            ///< address says

  bool operator==(const PciFunction&) const = default;

  /// A bridge that the kernel lets stand in a group that is given away: one with buses behind it
  /// (its header says so: drivers/vfio/vfio_main.c), or a host bridge without a driver.
  [[nodiscard]] bool is_bridge() const;
  /// Part of the host's own fabric: never given to a guest. Other bridge devices are endpoints.
  [[nodiscard]] bool is_fabric() const;
};

/// The host's PCI functions.
struct Pci {
  std::vector<PciFunction> functions;  ///< by address; without those of which too much is unseen
  bool iommu = false;                  ///< there are IOMMU groups, other than vfio's "noiommu" ones
  std::string cpu_vendor;              ///< "GenuineIntel", "AuthenticAMD"; "" if it is not said
  /// What could not be seen, and why; empty for who may see all. Linux hides nothing of this from
  /// users, but some distributions close /sys to them.
  std::vector<std::string> unseen;

  bool operator==(const Pci&) const = default;

  [[nodiscard]] const PciFunction* find(const base::PciAddress& address) const;
  [[nodiscard]] std::vector<const PciFunction*> group(unsigned number) const;

  /// Nothing: it cannot be told from what was seen.
  [[nodiscard]] std::optional<bool> has_iommu() const;
  /// What to do where the IOMMU is off, a line for each maker of CPUs that it could be.
  [[nodiscard]] std::vector<std::string> iommu_advice() const;
};

/// Whether a driver can have that name: a folder's in sysfs, which a journal and a terminal bear.
[[nodiscard]] bool is_driver_name(std::string_view name);

/// Reads /sys/bus/pci/devices of the tree. Throws Failure (preflight) for a tree that cannot be a
/// kernel's: names that are no addresses, links that lead elsewhere. A function that vanishes
/// meanwhile is left out.
[[nodiscard]] Pci look_at_pci(const base::Tree& tree);

}  // namespace vmlaunch::launcher::survey
