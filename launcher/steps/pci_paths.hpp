#pragma once

#include <string>

#include "base/pci_address.hpp"
#include "launcher/steps/host.hpp"
#include "launcher/wire.hpp"

namespace vmlaunch::launcher::steps {

[[nodiscard]] inline std::string device_folder(const base::PciAddress& device) {
  return "/sys/bus/pci/devices/" + base::to_string(device);
}

[[nodiscard]] inline std::string driver_folder(const std::string& driver) {
  return "/sys/bus/pci/drivers/" + driver;
}

/// Throws FormError for anything but an address in full.
[[nodiscard]] base::PciAddress read_address(Fields& fields, const char* key);

/// A driver's name, "" for none. Throws FormError for what could leave its folder.
[[nodiscard]] std::string read_driver(Fields& fields, const char* key);

/// A driver that a device is taken to: its module has the same name. Throws FormError for one that
/// is not made for that.
[[nodiscard]] std::string read_taker(Fields& fields, const char* key);

/// The driver that a device has, "" for none.
[[nodiscard]] std::string driver_of(const Host& host, const base::PciAddress& device);

/// The number of the IOMMU group that a device is in. Throws Failure for one that has none.
[[nodiscard]] std::string iommu_group_of(const Host& host, const base::PciAddress& device);

/// For messages: "no driver", or its name.
[[nodiscard]] std::string named(const std::string& driver);

/// Takes a device from the driver that it has.
void unbind(Host& host, const base::PciAddress& device);

/// Lets the kernel find a driver, which must then be that one. Throws Failure.
void probe_driver(Host& host, const base::PciAddress& device, const std::string& driver);

/// Takes a device from vfio-pci and lets the kernel find a driver as it does at boot, if it has
/// any.
void give_to_host(Host& host, const base::PciAddress& device);

/// Throws Failure (preflight) for a device that is not there.
void require_device(const Host& host, const base::PciAddress& device);

/// Throws ChangedMeanwhile for a device that went away while we had it: nothing is left to restore.
void require_still_there(const Host& host, const base::PciAddress& device);

}  // namespace vmlaunch::launcher::steps
