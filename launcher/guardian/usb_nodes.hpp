#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/tree.hpp"
#include "launcher/config/usb_rule.hpp"
#include "launcher/guardian/host_changes.hpp"
#include "launcher/steps/lock.hpp"
#include "sandbox/private_dev.hpp"

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

/// The nodes of USB devices in a QEMU's /dev. Nobody else's device is among them, for a number that
/// was a device's may be another's next, and no other VM has what it has.
class UsbGiver {
 public:
  /// Both outlive it.
  UsbGiver(const HostChanges& changes,
           sandbox::PrivateDev& dev,
           std::vector<config::UsbRule> rules);

  /// What the rules mean when QEMU starts. Throws Failure (held) when another VM has one of them.
  void give();

  /// Afterwards, what they mean now. What another VM has is left to it.
  void follow();

 private:
  [[nodiscard]] std::optional<steps::Lock> claim(const std::string& device) const;
  void add(const std::string& node, const std::string& device, steps::Lock lock);

  const HostChanges& changes_;
  sandbox::PrivateDev& dev_;
  std::vector<config::UsbRule> rules_;
  UsbNodes nodes_;
  std::map<std::string, steps::Lock> locks_;  ///< by node
};

}  // namespace vmlaunch::launcher::guardian
