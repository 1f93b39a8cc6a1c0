#pragma once

#include <string>

#include "base/pci_address.hpp"
#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// Keeps a device out of D3 and D3cold while the VM has it: some never come back from there.
struct KeepAwake {
  static constexpr const char* kKind = "keep-awake";
  static constexpr int kCapability = kNoCapability;

  base::PciAddress device;

  bool operator==(const KeepAwake&) const = default;

  static KeepAwake read(Fields& fields);
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
