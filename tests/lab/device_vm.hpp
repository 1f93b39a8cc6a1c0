#pragma once

#include <string>
#include <vector>

#include "tests/component/vm.hpp"

namespace vmlaunch::tests {

inline const std::string kVfio = "vfio-pci";

/// The config with devices of the host.
[[nodiscard]] Json with_devices(Json config, const Json& pci);

/// The demo guest with one of the host's NICs, and `words` on its kernel command line.
[[nodiscard]] Json nic_guest(const std::string& nic, const std::string& words);

/// The probe in QEMU's place, with devices bound for it.
[[nodiscard]] Json probe_with(const Json& pci, const std::vector<std::string>& words = {});

[[nodiscard]] bool said(const Program& program, const std::string& text);

/// The node of a device's IOMMU group.
[[nodiscard]] std::string vfio_node_of(const std::string& address);

/// A link or node of the host for the time of a case, by commands of a shell.
class Made {
 public:
  Made(const std::string& make, std::string remove);
  Made(const Made&) = delete;
  Made& operator=(const Made&) = delete;
  ~Made();

 private:
  std::string remove_;
};

/// br0, with the address that the demo guest asks for. The modules are what a host with udev has
/// nodes for from its boot.
[[nodiscard]] Made a_bridge();

/// The link of a NIC.
[[nodiscard]] std::string link_of(const std::string& nic);

}  // namespace vmlaunch::tests
