#include "launcher/config/values.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "base/text.hpp"

namespace vmlaunch::launcher::config {

namespace {

constexpr std::string_view kClass = "class:";

std::optional<std::uint16_t> parse_port(std::string_view text) {
  const auto port = base::parse_number<std::uint16_t>(text);
  return port == std::uint16_t{0} ? std::nullopt : port;
}

bool is_ipv4(const std::string& text) {
  in_addr address{};
  return ::inet_pton(AF_INET, text.c_str(), &address) == 1;
}

bool is_printable(std::string_view text, std::size_t longest) {
  return !text.empty() && text.size() <= longest &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

}  // namespace

std::optional<PortForward> parse_port_forward(std::string_view text) {
  std::vector<std::string> parts = base::split(text, ':');
  PortForward forward;
  if (parts.front() == "tcp" || parts.front() == "udp") {
    forward.protocol =
        parts.front() == "tcp" ? PortForward::Protocol::tcp : PortForward::Protocol::udp;
    parts.erase(parts.begin());
  }
  if (parts.size() == 3) {
    if (!is_ipv4(parts.front())) {
      return std::nullopt;
    }
    forward.host_address = parts.front();
    parts.erase(parts.begin());
  }
  if (parts.size() != 2) {
    return std::nullopt;
  }
  const auto host = parse_port(parts[0]);
  const auto guest = parse_port(parts[1]);
  if (!host || !guest) {
    return std::nullopt;
  }
  forward.host_port = *host;
  forward.guest_port = *guest;
  return forward;
}

std::string to_string(const PortForward& forward) {
  return (forward.protocol == PortForward::Protocol::tcp ? "tcp:" : "udp:") + forward.host_address +
         ":" + std::to_string(forward.host_port) + ":" + std::to_string(forward.guest_port);
}

std::optional<Endpoint> parse_endpoint(std::string_view text) {
  const std::vector<std::string> parts = base::split(text, ':');
  if (parts.size() != 2 || !is_ipv4(parts[0])) {
    return std::nullopt;
  }
  const auto port = parse_port(parts[1]);
  return port ? std::optional(Endpoint{parts[0], *port}) : std::nullopt;
}

std::string to_string(const Endpoint& endpoint) {
  return endpoint.address + ":" + std::to_string(endpoint.port);
}

std::optional<MacAddress> parse_mac_address(std::string_view text) {
  const std::vector<std::string> bytes = base::split(text, ':');
  if (bytes.size() != 6) {
    return std::nullopt;
  }
  MacAddress mac;
  for (const std::string& byte : bytes) {
    if (byte.size() != 2 || !base::parse_number<std::uint8_t>(byte, 16)) {
      return std::nullopt;
    }
  }
  // Bit 0 of the first byte marks a group address, which no NIC may have.
  if ((*base::parse_number<std::uint8_t>(bytes[0], 16) & 1U) != 0) {
    return std::nullopt;
  }
  for (const char c : text) {
    mac.text += static_cast<char>(c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c);
  }
  // QEMU takes zeros for no address and makes one up.
  return mac.text == "00:00:00:00:00:00" ? std::nullopt : std::optional(mac);
}

bool is_unit_name(std::string_view text) {
  constexpr std::array<std::string_view, 8> kSuffixes = {
      ".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".swap"};
  const std::size_t dot = text.rfind('.');
  // A template without an instance is no unit, and what begins with a dash is an option to others.
  return text.size() <= 255 && dot != std::string_view::npos && dot != 0 && text.front() != '-' &&
         text[dot - 1] != '@' &&
         std::find(kSuffixes.begin(), kSuffixes.end(), text.substr(dot)) != kSuffixes.end() &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  std::string_view(":-_.\\@").find(c) != std::string_view::npos;
         });
}

std::uint32_t hash_of(std::string_view text) {
  std::uint32_t hash = 2166136261U;
  for (const char c : text) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 16777619U;
  }
  return hash;
}

MacAddress made_mac_address(std::string_view vm, std::size_t nic) {
  const std::uint32_t hash = hash_of(std::string(vm) + "/" + std::to_string(nic));
  std::array<char, 18> text{};
  static_cast<void>(std::snprintf(text.data(),
                                  text.size(),
                                  "52:54:00:%02x:%02x:%02x",
                                  hash >> 16U & 0xffU,
                                  hash >> 8U & 0xffU,
                                  hash & 0xffU));
  return {text.data()};
}

bool is_link_name(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 15 && name.front() != '.' && name.front() != '-' &&
         std::all_of(name.begin(), name.end(), allowed);
}

std::optional<PciIds> parse_pci_ids(std::string_view text) {
  const std::vector<std::string> parts = base::split(text, ':');
  if (parts.size() != 2 || parts[0].size() != 4 || parts[1].size() != 4) {
    return std::nullopt;
  }
  const auto vendor = base::parse_number<std::uint16_t>(parts[0], 16);
  const auto device = base::parse_number<std::uint16_t>(parts[1], 16);
  return vendor && device ? std::optional(PciIds{*vendor, *device}) : std::nullopt;
}

std::string to_string(const PciIds& ids) {
  std::array<char, 10> text{};
  static_cast<void>(std::snprintf(text.data(), text.size(), "%04x:%04x", ids.vendor, ids.device));
  return text.data();
}

std::optional<std::string> parse_vendor_id(std::string_view text) {
  const bool fits = is_printable(text, 12) && text.find_first_of(",\"'") == std::string_view::npos;
  return fits ? std::optional(std::string(text)) : std::nullopt;
}

std::optional<std::string> parse_disk_serial(std::string_view text) {
  return is_printable(text, 20) ? std::optional(std::string(text)) : std::nullopt;
}

std::optional<PciSelector> parse_pci_selector(std::string_view text) {
  if (text.starts_with(kClass)) {
    text.remove_prefix(kClass.size());
    const auto number = base::parse_number<std::uint16_t>(text, 16);
    return number && text.size() == 4 ? std::optional(PciSelector(PciClass{*number}))
                                      : std::nullopt;
  }
  if (const auto address = base::parse_pci_address(text)) {
    return *address;
  }
  if (const auto ids = parse_pci_ids(text)) {
    return *ids;
  }
  const auto first = base::parse_pci_address(std::string(text) + ".0");
  return first ? std::optional(PciSelector(PciSlot{*first})) : std::nullopt;
}

std::string to_string(const PciSelector& selector) {
  if (const auto* slot = std::get_if<PciSlot>(&selector)) {
    const std::string first = base::to_string(slot->first);
    return first.substr(0, first.rfind('.'));
  }
  if (const auto* one = std::get_if<PciClass>(&selector)) {
    std::array<char, 8> digits{};
    static_cast<void>(std::snprintf(digits.data(), digits.size(), "%04x", one->number));
    return std::string(kClass) + digits.data();
  }
  const auto* ids = std::get_if<PciIds>(&selector);
  return ids != nullptr ? to_string(*ids) : base::to_string(std::get<base::PciAddress>(selector));
}

}  // namespace vmlaunch::launcher::config
