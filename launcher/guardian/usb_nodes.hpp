#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/tree.hpp"
#include "launcher/config/usb_rule.hpp"

namespace vmlaunch::launcher::guardian {

/// Nodes below /dev ("bus/usb/001/004") with the devices that they are of, as sysfs names them
/// ("1-2").
using UsbNodes = std::map<std::string, std::string>;

/// Those that QEMU is to have, which has had `given` until now; nothing: it starts. Hubs are never
/// meant, nor is one of several devices with a rule's ids that was not meant before, nor another
/// device that got an address. Reads only what the kernel shows without waiting.
[[nodiscard]] UsbNodes usb_nodes(const base::Tree& tree,
                                 const std::vector<config::UsbRule>& rules,
                                 const UsbNodes* given);

}  // namespace vmlaunch::launcher::guardian
