#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "launcher/survey/host.hpp"
#include "launcher/survey/pci_names.hpp"

namespace vmlaunch::launcher::survey {

/// What `vmlaunch host` tells of a host, to choose devices, CPUs and memory by. The text ends with
/// a newline, and can be written to a terminal whatever the host calls itself.
[[nodiscard]] std::string to_text(const Host& host, const PciNames& names);
[[nodiscard]] nlohmann::json to_json(const Host& host, const PciNames& names);

/// In the words of lspci -nn, with its driver and how it can be reset; on a line of its own.
[[nodiscard]] std::string describe(const PciFunction& function,
                                   const Pci& pci,
                                   const PciNames& names,
                                   bool with_node = false);

/// "socket 0, node 1, L3 cache of 25M for CPUs 10-19,30-39"
[[nodiscard]] std::string place_of(const Cluster& cluster);

/// How people give amounts of memory: "31.2G", "512M"; rounded.
[[nodiscard]] std::string about(base::ByteSize size);

}  // namespace vmlaunch::launcher::survey
