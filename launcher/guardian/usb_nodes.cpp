#include "launcher/guardian/usb_nodes.hpp"

#include <variant>

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

}  // namespace vmlaunch::launcher::guardian
