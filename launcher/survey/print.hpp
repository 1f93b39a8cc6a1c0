#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "launcher/survey/pci.hpp"
#include "launcher/survey/pci_names.hpp"

namespace vmlaunch::launcher::survey {

/// What `vmlaunch host` tells of a host, to choose devices by. The text ends with a newline, and
/// can be written to a terminal whatever the host calls itself.
[[nodiscard]] std::string to_text(const Pci& host, const PciNames& names);
[[nodiscard]] nlohmann::json to_json(const Pci& host, const PciNames& names);

}  // namespace vmlaunch::launcher::survey
