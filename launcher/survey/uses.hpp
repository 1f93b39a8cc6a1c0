#pragma once

#include <compare>
#include <set>
#include <string>
#include <vector>

#include "base/pci_address.hpp"
#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// A device of the host: a PCI function, or a USB device behind it.
struct Place {
  base::PciAddress device;
  std::string usb = {};  ///< as sysfs names it, "1-2.3"; "" for what is not on USB

  auto operator<=>(const Place&) const = default;
};

/// Something that the host would lose with a device.
struct Use {
  Place place;
  std::string what;    ///< "nvme0n1p1 is mounted on /data"
  std::string advice;  ///< what ends it: "type: umount /data"

  bool operator==(const Use&) const = default;
};

/// What the host uses its devices for, and what weakens the walls between them.
struct Uses {
  std::vector<Use> uses;
  std::set<Place> keyboards;       ///< devices that are one, or have one behind them
  bool other_keyboard = false;     ///< one that is behind no PCI device (PS/2)
  bool no_iommu_mode = false;      ///< vfio would give devices away without an IOMMU
  bool acs_override = false;       ///< the kernel was told to split IOMMU groups
  bool unsafe_interrupts = false;  ///< devices may send any interrupt

  bool operator==(const Uses&) const = default;
};

/// Reads /proc and /sys of the tree.
[[nodiscard]] Uses look_at_uses(const base::Tree& tree);

}  // namespace vmlaunch::launcher::survey
