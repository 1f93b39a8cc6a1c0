#include "launcher/steps/pci_paths.hpp"

#include <system_error>

#include "base/text.hpp"
#include "launcher/config/config.hpp"
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

std::string read_taker(Fields& fields, const char* key) {
  std::string name = fields.text(key);
  if (name != config::kVfioDriver && name != config::kStubDriver) {
    throw FormError("not a driver to take devices to");
  }
  return name;
}

std::string driver_of(const Host& host, const base::PciAddress& device) {
  return host.tree().link_name(device_folder(device) + "/driver").value_or("");
}

std::string iommu_group_of(const Host& host, const base::PciAddress& device) {
  const auto group = host.tree().link_name(device_folder(device) + "/iommu_group");
  if (!group || !base::parse_number<unsigned>(*group)) {
    throw Failure(ExitCode::preflight,
                  "Cannot give " + base::to_string(device) +
                      " to the guest: no IOMMU serves it any more; type: vmlaunch host");
  }
  return *group;
}

std::string named(const std::string& driver) {
  return driver.empty() ? "no driver" : base::printable(driver);
}

void unbind(Host& host, const base::PciAddress& device) {
  host.write_to_driver(device_folder(device) + "/driver/unbind", base::to_string(device));
}

/// Whether the write says that it failed is no matter: some drivers refuse, and some kernels return
/// an error for "no driver took it". Where the device is counts.
void probe_driver(Host& host, const base::PciAddress& device, const std::string& driver) {
  std::string cause;
  try {
    host.write_to_driver("/sys/bus/pci/drivers_probe", base::to_string(device));
  } catch (const std::system_error& error) {
    cause = std::string(": ") + error.what();
  }
  if (driver_of(host, device) != driver) {
    throw Failure(ExitCode::failed,
                  "Cannot bind " + base::to_string(device) + " to " + driver + cause + "; it has " +
                      named(driver_of(host, device)) + "; type: dmesg | grep " +
                      base::to_string(device));
  }
}

void give_to_host(Host& host, const base::PciAddress& device) {
  unbind(host, device);
  host.write(device_folder(device) + "/driver_override", "");
  try {
    host.write_to_driver("/sys/bus/pci/drivers_probe", base::to_string(device));
  } catch (const std::system_error&) {
    // Some kernels return an error for "no driver took it".
  }
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
