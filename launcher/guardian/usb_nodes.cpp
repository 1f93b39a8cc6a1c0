#include "launcher/guardian/usb_nodes.hpp"

#include <cerrno>
#include <system_error>
#include <utility>
#include <variant>

#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/usb.hpp"

namespace vmlaunch::launcher::guardian {

UsbNodes usb_nodes(const base::Tree& tree,
                   const std::vector<config::UsbRule>& rules,
                   const UsbNodes* given) {
  survey::Reader reader(tree);
  const survey::Usb usb = look_at_usb(reader, survey::UsbNames::left_out);
  UsbNodes nodes;
  for (const config::UsbRule& rule : rules) {
    const std::vector<survey::UsbDevice> meant = usb.find(rule);
    const bool only_same = meant.size() > 1 || std::holds_alternative<config::UsbAddress>(rule);
    for (const survey::UsbDevice& device : meant) {
      const auto had = given == nullptr ? UsbNodes::const_iterator() : given->find(device.node());
      const bool same = given != nullptr && had != given->end() && had->second == device.name();
      const bool at_start = given == nullptr && meant.size() == 1;
      if (!device.is_hub() && (same || at_start || !only_same)) {
        nodes.emplace(device.node(), device.name());
      }
    }
  }
  return nodes;
}

UsbGiver::UsbGiver(const HostChanges& changes,
                   sandbox::PrivateDev& dev,
                   std::vector<config::UsbRule> rules)
    : changes_(changes), dev_(dev), rules_(std::move(rules)) {}

void UsbGiver::give() {
  for (const auto& [node, device] : usb_nodes(changes_.host().tree(), rules_, nullptr)) {
    std::optional<steps::Lock> lock = claim(device);
    if (!lock) {
      throw Failure(
          ExitCode::held,
          "Cannot take the USB device " + device + ": another VM has it; stop that first");
    }
    add(node, device, std::move(*lock));
  }
}

void UsbGiver::follow() {
  const UsbNodes wanted = usb_nodes(changes_.host().tree(), rules_, &nodes_);
  for (auto given = nodes_.begin(); given != nodes_.end();) {
    if (wanted.contains(given->first)) {
      ++given;
    } else {
      dev_.remove(given->first);
      locks_.erase(given->first);
      given = nodes_.erase(given);
    }
  }
  for (const auto& [node, device] : wanted) {
    std::optional<steps::Lock> lock = nodes_.contains(node) ? std::nullopt : claim(device);
    if (lock) {
      add(node, device, std::move(*lock));
    }
  }
}

/// Another VM may mean the same device by another rule.
std::optional<steps::Lock> UsbGiver::claim(const std::string& device) const {
  return changes_.claim(std::string(steps::kUsbDeviceLock) + device);
}

void UsbGiver::add(const std::string& node, const std::string& device, steps::Lock lock) {
  try {
    dev_.add(node);
  } catch (const std::system_error& error) {
    if (error.code().value() == ENOENT) {
      return;  // pulled out since the look
    }
    throw;
  }
  nodes_.emplace(node, device);
  locks_.emplace(node, std::move(lock));
}

}  // namespace vmlaunch::launcher::guardian
