#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/pci_address.hpp"
#include "launcher/config/usb_rule.hpp"
#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

/// What a USB device can do, each part with a driver of its own.
struct UsbInterface {
  std::string name;              ///< in sysfs: "1-2.3:1.0"
  std::uint32_t class_code = 0;  ///< 24 bits: class, subclass, protocol
  std::string driver;            ///< "" for none, "usbfs" for a program

  bool operator==(const UsbInterface&) const = default;
};

/// A USB device that is plugged in.
struct UsbDevice {
  config::UsbPort port;
  unsigned number = 0;  ///< on its bus; another one at each plugging in
  config::UsbIds ids;
  std::string manufacturer;       ///< in the device's own words, any characters; "" for none
  std::string product;            ///< the same
  std::string speed;              ///< in Mbit/s: "480"; "" if it is not told
  std::uint8_t device_class = 0;  ///< 0: its interfaces say
  std::vector<UsbInterface> interfaces;

  bool operator==(const UsbDevice&) const = default;

  /// By its own class, or by an interface's, which the kernel's hub driver goes by too.
  [[nodiscard]] bool is_hub() const;
  /// Its name in sysfs: "1-2.3".
  [[nodiscard]] std::string name() const { return to_string(port); }
  /// What a program opens to use it, below /dev: "bus/usb/001/004".
  [[nodiscard]] std::string node() const;
};

/// A bus of a USB controller, which often has two: one for USB 2, one for USB 3.
struct UsbBus {
  unsigned number = 0;
  std::optional<base::PciAddress> controller;  ///< nothing for one that is no PCI function
  std::string speed;                           ///< in Mbit/s; "" if it is not told
  unsigned ports = 0;
  std::vector<UsbDevice> devices;  ///< by port

  bool operator==(const UsbBus&) const = default;
};

/// The host's USB devices. Source: Documentation/ABI/testing/sysfs-bus-usb.
struct Usb {
  std::vector<UsbBus> buses;  ///< by number

  bool operator==(const Usb&) const = default;

  /// Those that a rule means, hubs too; root hubs are no devices.
  [[nodiscard]] std::vector<UsbDevice> find(const config::UsbRule& rule) const;
};

/// Whether the device is one that the rule means.
[[nodiscard]] bool matches(const config::UsbRule& rule, const UsbDevice& device);

constexpr const char* kUsbDevices = "/sys/bus/usb/devices/";

/// Whether devices' own words are looked at, too: the kernel shows those under the device's lock,
/// for which a look can wait.
enum class UsbNames { left_out, read };

[[nodiscard]] Usb look_at_usb(Reader& reader, UsbNames names);

}  // namespace vmlaunch::launcher::survey
