#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace vmlaunch::launcher::config {

/// Vendor and product of a USB device: "046d:c051".
struct UsbIds {
  std::uint16_t vendor = 0;
  std::uint16_t product = 0;

  auto operator<=>(const UsbIds&) const = default;
};

/// Where a USB device is plugged in, as the kernel names it: "1-2.3" is port 3 of the hub at port 2
/// of bus 1.
struct UsbPort {
  unsigned bus = 0;
  std::vector<unsigned> path;

  auto operator<=>(const UsbPort&) const = default;
};

/// Bus and device number, as lsusb shows them: "1:4" or "001:004". Another one at each plugging in.
struct UsbAddress {
  unsigned bus = 0;
  unsigned device = 0;

  auto operator<=>(const UsbAddress&) const = default;
};

/// What a config says to choose a USB device. Their texts differ in form.
using UsbRule = std::variant<UsbIds, UsbPort, UsbAddress>;

[[nodiscard]] std::optional<UsbIds> parse_usb_ids(std::string_view text);
[[nodiscard]] std::optional<UsbPort> parse_usb_port(std::string_view text);
[[nodiscard]] std::optional<UsbAddress> parse_usb_address(std::string_view text);
[[nodiscard]] std::optional<UsbRule> parse_usb_rule(std::string_view text);

[[nodiscard]] std::string to_string(const UsbIds& ids);
[[nodiscard]] std::string to_string(const UsbPort& port);
[[nodiscard]] std::string to_string(const UsbAddress& address);
[[nodiscard]] std::string to_string(const UsbRule& rule);

/// The ports from the bus to the device: "2.3".
[[nodiscard]] std::string path_of(const UsbPort& port);

}  // namespace vmlaunch::launcher::config
