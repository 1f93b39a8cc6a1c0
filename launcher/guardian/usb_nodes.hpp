#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/tree.hpp"
#include "launcher/config/usb_rule.hpp"

namespace vmlaunch::launcher::guardian {

/// The nodes below /dev of what the rules mean now ("bus/usb/001/004"); hubs are never meant. Reads
/// only what the kernel shows without waiting.
[[nodiscard]] std::set<std::string> usb_nodes(const base::Tree& tree,
                                              const std::vector<config::UsbRule>& rules);

}  // namespace vmlaunch::launcher::guardian
