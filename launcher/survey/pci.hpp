#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/pci_address.hpp"
#include "base/tree.hpp"
#include "launcher/survey/bar.hpp"
#include "launcher/survey/iommu.hpp"

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
  bool is_virtual = false;  ///< an SR-IOV function: a device of its own, whatever its
                            ///< address says
  std::optional<base::PciAddress> physical;  ///< of a virtual one: whose it is, if that is seen
  unsigned virtual_total = 0;                ///< virtual functions that it can have
  unsigned virtual_count = 0;                ///< those that it has
  std::optional<unsigned> numa_node;         ///< nothing: near all, or the firmware does not say
  std::vector<Bar> bars;

  bool operator==(const PciFunction&) const = default;

  /// A bridge that the kernel lets stand in a group that is given away: one with buses behind it
  /// (its header says so: drivers/vfio/vfio_main.c), or a host bridge without a driver.
  [[nodiscard]] bool is_bridge() const;
  /// Part of the host's own fabric: never given to a guest. Other bridge devices are endpoints.
  [[nodiscard]] bool is_fabric() const;
  [[nodiscard]] bool is_display() const { return class_code >> 16U == 0x03; }
};

/// The host's PCI functions.
struct Pci {
  std::vector<PciFunction> functions;  ///< by address; without those of which too much is unseen
  bool iommu = false;                  ///< there are IOMMU groups, other than vfio's "noiommu" ones
  IommuSetup iommu_setup;
  /// What could not be seen, and why; empty for who may see all. Linux hides nothing of this from
  /// users, but some distributions close /sys to them.
  std::vector<std::string> unseen;

  bool operator==(const Pci&) const = default;

  [[nodiscard]] const PciFunction* find(const base::PciAddress& address) const;
  [[nodiscard]] std::vector<const PciFunction*> group(unsigned number) const;

  /// Nothing: it cannot be told from what was seen.
  [[nodiscard]] std::optional<bool> has_iommu() const;
  /// What to do if the IOMMU is off; nothing where it is not.
  [[nodiscard]] std::vector<std::string> iommu_advice() const;
};

/// Whether a driver can have that name: a folder's in sysfs, which a journal and a terminal bear.
[[nodiscard]] bool is_driver_name(std::string_view name);

/// Whether a function's memory windows are looked at, too: to say what sizes one can have, the
/// kernel wakes the device for a moment, which a plan must not.
enum class Windows { left_out, read };

/// Reads /sys/bus/pci/devices of the tree. Throws Failure (preflight) for a tree that cannot be a
/// kernel's: names that are no addresses, links that lead elsewhere. A function that vanishes
/// meanwhile is left out.
[[nodiscard]] Pci look_at_pci(const base::Tree& tree);
[[nodiscard]] Pci look_at_pci(Reader& reader, Windows windows);

}  // namespace vmlaunch::launcher::survey
