#include "base/pci_address.hpp"

#include <array>
#include <cstdio>

#include "base/text.hpp"

namespace vmlaunch::base {

std::optional<PciAddress> parse_pci_address(std::string_view text) {
  constexpr std::string_view kShort = "04:00.0";
  PciAddress address;
  if (text.size() > kShort.size()) {
    const std::size_t colon = text.size() - kShort.size() - 1;
    const auto domain = parse_number<std::uint32_t>(text.substr(0, colon), 16);
    if (!domain || colon < 4 || colon > 8 || text[colon] != ':') {
      return std::nullopt;
    }
    address.domain = *domain;
    text.remove_prefix(colon + 1);
  }
  if (text.size() != kShort.size() || text[2] != ':' || text[5] != '.') {
    return std::nullopt;
  }
  const auto bus = parse_number<std::uint8_t>(text.substr(0, 2), 16);
  const auto device = parse_number<std::uint8_t>(text.substr(3, 2), 16);
  const auto function = parse_number<std::uint8_t>(text.substr(6), 8);
  if (!bus || !device || *device > 0x1f || !function) {
    return std::nullopt;
  }
  address.bus = *bus;
  address.device = *device;
  address.function = *function;
  return address;
}

std::string to_string(const PciAddress& address) {
  std::array<char, 32> text{};
  const int length = std::snprintf(text.data(),
                                   text.size(),
                                   "%04x:%02x:%02x.%x",
                                   address.domain,
                                   unsigned{address.bus},
                                   unsigned{address.device},
                                   unsigned{address.function});
  return {text.data(), static_cast<std::size_t>(length)};
}

}  // namespace vmlaunch::base
