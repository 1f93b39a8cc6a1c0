#pragma once

#include <map>
#include <string>

#include "tests/support/program.hpp"

namespace vmlaunch::tests {

/// What a VM may change of its host, as names and values. Left out is what changes by itself, and
/// which modules are loaded.
using HostSnapshot = std::map<std::string, std::string>;

[[nodiscard]] HostSnapshot host_snapshot();

/// A line for each value that went ("- name = value") or came ("+ name = value").
[[nodiscard]] std::string difference(const HostSnapshot& before, const HostSnapshot& after);

/// What makes the host another one than before, in the end: what has ended, or was killed, takes a
/// moment to vanish.
[[nodiscard]] std::string lasting_difference(const HostSnapshot& before,
                                             Seconds limit = Seconds(20));

}  // namespace vmlaunch::tests
