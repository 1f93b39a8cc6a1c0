#include "launcher/guardian/usb_nodes.hpp"

#include "launcher/survey/usb.hpp"

namespace vmlaunch::launcher::guardian {

std::set<std::string> usb_nodes(const base::Tree& tree, const std::vector<config::UsbRule>& rules) {
  survey::Reader reader(tree);
  const survey::Usb usb = look_at_usb(reader, survey::UsbNames::left_out);
  std::set<std::string> nodes;
  for (const config::UsbRule& rule : rules) {
    for (const survey::UsbDevice& device : usb.find(rule)) {
      if (!device.is_hub()) {
        nodes.insert(device.node());
      }
    }
  }
  return nodes;
}

}  // namespace vmlaunch::launcher::guardian
