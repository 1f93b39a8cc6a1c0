#pragma once

#include <linux/capability.h>

#include <string>

#include "base/pci_address.hpp"
#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// Takes a device from its driver and binds it to vfio-pci; back to the driver that had it.
struct BindDriver {
  static constexpr const char* kKind = "bind-driver";
  static constexpr int kCapability = CAP_SYS_MODULE;

  base::PciAddress device;
  std::string from;  ///< the driver that the survey found, "" for none

  bool operator==(const BindDriver&) const = default;

  static BindDriver read(Fields& fields);
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
