#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/tree.hpp"
#include "launcher/survey/pci.hpp"
#include "launcher/survey/pci_names.hpp"

namespace vmlaunch::launcher::survey {

/// What `vmlaunch host` tells of a host, to choose devices by.
struct Host {
  Pci pci;
  std::string cpu_vendor;  ///< as in /proc/cpuinfo; "" if it does not say

  bool operator==(const Host&) const = default;
};

[[nodiscard]] Host look_at_host(const base::Tree& tree);

/// Whether there is an IOMMU; nothing if that could not be seen.
[[nodiscard]] std::optional<bool> has_iommu(const Host& host);

/// What to do so that there is an IOMMU; empty if there is one.
[[nodiscard]] std::vector<std::string> advice(const Host& host);

/// Ends with a newline, and can be written to a terminal whatever the host calls itself.
[[nodiscard]] std::string to_text(const Host& host, const PciNames& names);
[[nodiscard]] nlohmann::json to_json(const Host& host, const PciNames& names);

}  // namespace vmlaunch::launcher::survey
