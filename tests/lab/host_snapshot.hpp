#pragma once

#include <map>
#include <string>

namespace vmlaunch::tests {

/// What a VM may change of its host, as names and values. Left out is what changes by itself, and
/// which modules are loaded.
using HostSnapshot = std::map<std::string, std::string>;

[[nodiscard]] HostSnapshot host_snapshot();

/// A line for each value that went ("- name = value") or came ("+ name = value").
[[nodiscard]] std::string difference(const HostSnapshot& before, const HostSnapshot& after);

}  // namespace vmlaunch::tests
