#include "launcher/config/values.hpp"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "base/text.hpp"

namespace vmlaunch::launcher::config {

namespace {

std::optional<std::uint16_t> parse_port(std::string_view text) {
  const auto port = base::parse_number<std::uint16_t>(text);
  return port == std::uint16_t{0} ? std::nullopt : port;
}

bool is_ipv4(const std::string& text) {
  in_addr address{};
  return ::inet_pton(AF_INET, text.c_str(), &address) == 1;
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

}  // namespace vmlaunch::launcher::config
