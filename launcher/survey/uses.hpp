#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/pci_address.hpp"
#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// Something that the host would lose with a PCI device.
struct Use {
  base::PciAddress device;
  std::string what;    ///< "nvme0n1p1 is mounted on /data"
  std::string advice;  ///< what ends it: "type: umount /data"

  bool operator==(const Use&) const = default;
};

/// What the host uses PCI devices for, and what weakens the walls between them.
struct Uses {
  std::vector<Use> uses;
  std::set<base::PciAddress> keyboards;  ///< controllers with a keyboard behind them
  bool other_keyboard = false;           ///< one that is behind no PCI device (PS/2)
  bool no_iommu_mode = false;            ///< vfio would give devices away without an IOMMU
  bool acs_override = false;             ///< the kernel was told to split IOMMU groups
  bool unsafe_interrupts = false;        ///< devices may send any interrupt

  bool operator==(const Uses&) const = default;
};

/// Reads /proc and /sys of the tree.
[[nodiscard]] Uses look_at_uses(const base::Tree& tree);

}  // namespace vmlaunch::launcher::survey
