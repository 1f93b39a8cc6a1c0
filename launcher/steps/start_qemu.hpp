#pragma once

#include <string>

#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// Starts QEMU. As long as its undo has not succeeded no device is touched: an unbind under a
/// living QEMU sleeps in the kernel for ever.
struct StartQemu {
  static constexpr const char* kKind = "start-qemu";
  static constexpr int kCapability = kNoCapability;

  bool cgroup = false;  ///< born in the cgroup that MakeCgroup made

  bool operator==(const StartQemu&) const = default;

  static StartQemu read(Fields& fields);
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
