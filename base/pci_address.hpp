#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmlaunch::base {

/// Where a PCI function is: domain, bus, device and function (BDF address).
struct PciAddress {
  std::uint32_t domain = 0;
  std::uint8_t bus = 0;
  std::uint8_t device = 0;
  std::uint8_t function = 0;

  // clang-tidy takes the 0 in what the compiler writes for ours.
  auto operator<=>(const PciAddress&) const = default;  // NOLINT(modernize-use-nullptr)
};

/// "0000:04:00.0" or "04:00.0". Hexadecimal in full width, so that nothing can be smuggled into a
/// path: domains have 4 to 8 digits (some hosts number them above ffff), functions are 0 to 7.
[[nodiscard]] std::optional<PciAddress> parse_pci_address(std::string_view text);

/// As the kernel writes it in /sys/bus/pci/devices.
[[nodiscard]] std::string to_string(const PciAddress& address);

}  // namespace vmlaunch::base
