#pragma once

#include <cstdint>
#include <optional>
#include <string>
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
  std::vector<std::string> reset_methods;  ///< in the kernel's order; a hint only
  bool boot_vga = false;                   ///< the firmware's screen

  bool operator==(const PciFunction&) const = default;

  /// A bridge or another part of the host's own fabric (class 06): never given to a guest.
  [[nodiscard]] bool is_bridge() const { return class_code >> 16U == 0x06; }
};

/// The host's PCI functions.
struct Pci {
  std::vector<PciFunction> functions;  ///< by address; without those of which too much is unseen
  bool iommu = false;                  ///< there are IOMMU groups, other than vfio's "noiommu" ones
  /// What could not be seen, and why; empty for who may see all. Linux hides nothing of this from
  /// users, but some distributions close /sys to them.
  std::vector<std::string> unseen;

  bool operator==(const Pci&) const = default;

  [[nodiscard]] const PciFunction* find(const base::PciAddress& address) const;
  [[nodiscard]] std::vector<const PciFunction*> group(unsigned number) const;
};

/// Reads /sys/bus/pci/devices of the tree. Throws Failure (preflight) for a tree that cannot be a
/// kernel's: names that are no addresses, links that lead elsewhere. A function that vanishes
/// meanwhile is left out.
[[nodiscard]] Pci look_at_pci(const base::Tree& tree);

}  // namespace vmlaunch::launcher::survey
