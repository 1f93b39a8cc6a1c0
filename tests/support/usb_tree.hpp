#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/pci_tree.hpp"

namespace vmlaunch::tests {

/// A USB device of a built tree.
struct UsbParts {
  std::string port;  ///< "1-2.3"; the hubs above it were added before
  unsigned number = 2;
  std::string ids = "046d:c051";
  std::string product = {};  ///< "": it does not say
  std::string speed = "12";
  std::uint8_t device_class = 0;
  std::uint32_t interface_class = 0x030102;  ///< a mouse
  std::string driver = "usbhid";             ///< of its only interface; "" for none
};

/// Adds a root hub below a PCI function, or below a device of the platform (""), and a device to
/// one that is there, each with what the kernel shows of it, its node too.
void add_usb_bus(const PciTree& tree, unsigned number, const std::string& controller);
void add_usb_device(const PciTree& tree, const UsbParts& parts);

/// Pulls it out, with what is behind it.
void remove_usb_device(const PciTree& tree, const std::string& port);

/// The driver of an interface ("1-2.3:1.0"), or none.
void bind_usb(const PciTree& tree, const std::string& interface, const std::string& driver);

/// The real folder of a device or an interface, below the root.
[[nodiscard]] std::string usb_folder(const PciTree& tree, const std::string& name);

}  // namespace vmlaunch::tests
