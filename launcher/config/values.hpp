#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "base/pci_address.hpp"

namespace vmlaunch::launcher::config {

/// A port of the host that user networking forwards to the guest.
struct PortForward {
  enum class Protocol { tcp, udp };

  Protocol protocol = Protocol::tcp;
  std::string host_address = "127.0.0.1";  ///< IPv4; "0.0.0.0" opens it to the network
  std::uint16_t host_port = 0;
  std::uint16_t guest_port = 0;

  auto operator<=>(const PortForward&) const = default;
};

/// "tcp:127.0.0.1:2222:22"; protocol and address may be left out: "2222:22".
[[nodiscard]] std::optional<PortForward> parse_port_forward(std::string_view text);
[[nodiscard]] std::string to_string(const PortForward& forward);

/// An IPv4 address and a port: "127.0.0.1:5900".
struct Endpoint {
  std::string address;
  std::uint16_t port = 0;

  auto operator<=>(const Endpoint&) const = default;
};

[[nodiscard]] std::optional<Endpoint> parse_endpoint(std::string_view text);
[[nodiscard]] std::string to_string(const Endpoint& endpoint);

/// A unicast Ethernet address.
struct MacAddress {
  std::string text;  ///< lower case, with colons

  auto operator<=>(const MacAddress&) const = default;
};

[[nodiscard]] std::optional<MacAddress> parse_mac_address(std::string_view text);

/// Whether it can be the name of a unit of systemd that can be stopped and started again
/// (systemd.unit(5)): "nvidia-persistenced.service".
[[nodiscard]] bool is_unit_name(std::string_view text);

/// A number that differs as the texts do, and is the same for ever (FNV-1a). Not for secrets.
[[nodiscard]] std::uint32_t hash_of(std::string_view text);

/// The address of a NIC for which the config gives none: the same at each start, and locally
/// administered in the range that QEMU and KVM use.
[[nodiscard]] MacAddress made_mac_address(std::string_view vm, std::size_t nic);

/// Whether it can be a network link's name: 1 to 15 letters, digits, ".", "_" or "-".
[[nodiscard]] bool is_link_name(std::string_view name);

/// Vendor and device of a PCI function: "10de:1b81".
struct PciIds {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;

  auto operator<=>(const PciIds&) const = default;
};

[[nodiscard]] std::optional<PciIds> parse_pci_ids(std::string_view text);
[[nodiscard]] std::string to_string(const PciIds& ids);

/// What a hypervisor says that it is: 1 to 12 printable characters, none of which means anything in
/// a CPU model of QEMU's.
[[nodiscard]] std::optional<std::string> parse_vendor_id(std::string_view text);

/// What a guest sees as a disk's serial number: 1 to 20 printable characters, the least that a bus
/// has room for.
[[nodiscard]] std::optional<std::string> parse_disk_serial(std::string_view text);

/// All functions of a PCI slot: "04:00".
struct PciSlot {
  base::PciAddress first;  ///< its function 0

  auto operator<=>(const PciSlot&) const = default;
};

/// Class and subclass of a PCI function: "class:0300".
struct PciClass {
  std::uint16_t number = 0;

  auto operator<=>(const PciClass&) const = default;
};

/// What a config says to choose a PCI device.
using PciSelector = std::variant<base::PciAddress, PciSlot, PciIds, PciClass>;

[[nodiscard]] std::optional<PciSelector> parse_pci_selector(std::string_view text);
[[nodiscard]] std::string to_string(const PciSelector& selector);

}  // namespace vmlaunch::launcher::config
