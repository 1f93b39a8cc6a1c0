#include "launcher/config/usb_rule.hpp"

#include "base/text.hpp"

namespace vmlaunch::launcher::config {

namespace {

constexpr unsigned kMostBuses = 255;
constexpr unsigned kMostDevices = 127;
constexpr unsigned kMostPorts = 255;
constexpr std::size_t kMostTiers = 6;  // between a bus and a device (the kernel's MAX_TOPO_LEVEL)

/// 1 to `most`, in at most three digits.
std::optional<unsigned> parse_count(std::string_view text, unsigned most) {
  const auto number = text.size() <= 3 ? base::parse_number<unsigned>(text) : std::nullopt;
  return number && *number >= 1 && *number <= most ? number : std::nullopt;
}

/// As the kernel writes it: without zeros in front.
std::optional<unsigned> parse_plain_count(std::string_view text, unsigned most) {
  return text.starts_with('0') ? std::nullopt : parse_count(text, most);
}

}  // namespace

std::optional<UsbIds> parse_usb_ids(std::string_view text) {
  if (text.size() != 9 || text[4] != ':') {
    return std::nullopt;
  }
  const auto vendor = base::parse_number<std::uint16_t>(text.substr(0, 4), 16);
  const auto product = base::parse_number<std::uint16_t>(text.substr(5), 16);
  return vendor && product ? std::optional(UsbIds{*vendor, *product}) : std::nullopt;
}

std::optional<UsbPort> parse_usb_port(std::string_view text) {
  const std::size_t dash = text.find('-');
  const auto bus = parse_plain_count(text.substr(0, dash), kMostBuses);
  if (dash == std::string_view::npos || !bus) {
    return std::nullopt;
  }
  UsbPort port{*bus, {}};
  for (const std::string& tier : base::split(text.substr(dash + 1), '.')) {
    const auto number = parse_plain_count(tier, kMostPorts);
    if (!number || port.path.size() == kMostTiers) {
      return std::nullopt;
    }
    port.path.push_back(*number);
  }
  return port;
}

std::optional<UsbAddress> parse_usb_address(std::string_view text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) {
    return std::nullopt;
  }
  const auto bus = parse_count(text.substr(0, colon), kMostBuses);
  const auto device = parse_count(text.substr(colon + 1), kMostDevices);
  return bus && device ? std::optional(UsbAddress{*bus, *device}) : std::nullopt;
}

std::optional<UsbRule> parse_usb_rule(std::string_view text) {
  if (const auto ids = parse_usb_ids(text)) {
    return *ids;
  }
  if (const auto port = parse_usb_port(text)) {
    return *port;
  }
  const auto address = parse_usb_address(text);
  return address ? std::optional<UsbRule>(*address) : std::nullopt;
}

std::string to_string(const UsbIds& ids) {
  return base::hex(ids.vendor, 4) + ":" + base::hex(ids.product, 4);
}

std::string to_string(const UsbPort& port) {
  return std::to_string(port.bus) + "-" + path_of(port);
}

std::string to_string(const UsbAddress& address) {
  return std::to_string(address.bus) + ":" + std::to_string(address.device);
}

std::string to_string(const UsbRule& rule) {
  return std::visit([](const auto& one) { return to_string(one); }, rule);
}

std::string path_of(const UsbPort& port) {
  std::vector<std::string> tiers;
  tiers.reserve(port.path.size());
  for (const unsigned number : port.path) {
    tiers.push_back(std::to_string(number));
  }
  return base::join(tiers, ".");
}

}  // namespace vmlaunch::launcher::config
