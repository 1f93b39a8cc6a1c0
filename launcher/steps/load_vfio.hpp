#pragma once

#include <linux/capability.h>

#include <string>

#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// Loads vfio-pci. It stays loaded: taking it away would hurt other VMs, and fails where it is
/// built in.
struct LoadVfio {
  static constexpr const char* kKind = "load-vfio";
  static constexpr int kCapability = CAP_SYS_MODULE;

  bool operator==(const LoadVfio&) const = default;

  static LoadVfio read(Fields& fields);
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
