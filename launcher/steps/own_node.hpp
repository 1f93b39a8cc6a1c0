#pragma once

#include <linux/capability.h>

#include <string>

#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// Gives QEMU's user the node of an IOMMU group.
struct OwnNode {
  static constexpr const char* kKind = "own-node";
  static constexpr int kCapability = CAP_CHOWN;

  unsigned group = 0;

  bool operator==(const OwnNode&) const = default;

  static OwnNode read(Fields& fields);
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
