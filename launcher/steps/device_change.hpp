#pragma once

#include <string>

#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/step.hpp"

namespace vmlaunch::launcher::steps {

/// A change of one PCI device, which no other VM may have meanwhile.
class DeviceChange : public Change {
 public:
  explicit DeviceChange(const base::PciAddress& device) : device_(device) {}

  std::string object() const override { return base::to_string(device_); }
  std::vector<std::string> reserves() const override { return {base::to_string(device_)}; }

  void write(Json& json) const override { json["device"] = base::to_string(device_); }
  void check(const Host& host) const override { require_device(host, device_); }

 protected:
  [[nodiscard]] const base::PciAddress& device() const { return device_; }

 private:
  base::PciAddress device_;
};

}  // namespace vmlaunch::launcher::steps
