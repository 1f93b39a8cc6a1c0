#pragma once

#include <string>

#include "base/pci_address.hpp"
#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// Says which driver alone may take a device (driver_override). Nothing moves yet; but from here on
/// whoever probes the device cannot take it away from vfio-pci.
struct OverrideDriver {
  static constexpr const char* kKind = "override-driver";
  static constexpr int kCapability = kNoCapability;

  base::PciAddress device;
  std::string from;  ///< the driver that the survey found, "" for none

  bool operator==(const OverrideDriver&) const = default;

  static OverrideDriver read(Fields& fields);
  void write(Json& json) const;
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] std::string describe_undo() const;
  [[nodiscard]] std::string object() const;
  void check(const Host& host) const;
  [[nodiscard]] Json capture(const Host& host, const Context& context) const;
  void apply(Host& host, const Context& context, const Json& found, const Note& note) const;
  void undo(Host& host, const Json& found) const;
};

}  // namespace vmlaunch::launcher::steps
