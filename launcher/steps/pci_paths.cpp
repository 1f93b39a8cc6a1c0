#include "launcher/steps/pci_paths.hpp"

#include "launcher/steps/context.hpp"
#include "launcher/survey/pci.hpp"

namespace vmlaunch::launcher::steps {

base::PciAddress read_address(Fields& fields, const char* key) {
  const std::string text = fields.text(key);
  const auto address = base::parse_pci_address(text);
  if (!address || base::to_string(*address) != text) {
    throw FormError("not a PCI address");
  }
  return *address;
}

std::string read_driver(Fields& fields, const char* key) {
  std::string name = fields.text(key);
  if (!name.empty() && !survey::is_driver_name(name)) {
    throw FormError("not a driver's name");
  }
  return name;
}

void require_device(const Host& host, const base::PciAddress& device) {
  if (!host.tree().exists(device_folder(device))) {
    throw Failure(
        ExitCode::preflight,
        "Cannot find the PCI device " + base::to_string(device) + "; type: vmlaunch host");
  }
}

void require_still_there(const Host& host, const base::PciAddress& device) {
  if (!host.tree().exists(device_folder(device))) {
    throw ChangedMeanwhile("the PCI device " + base::to_string(device) +
                           " is gone; type: echo 1 > /sys/bus/pci/rescan");
  }
}

}  // namespace vmlaunch::launcher::steps
