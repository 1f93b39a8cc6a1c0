#pragma once

#include <linux/capability.h>

#include <string>

#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// Makes the VM's cgroup, in which QEMU is born: nothing of it can hide from its end.
struct MakeCgroup {
  static constexpr const char* kKind = "make-cgroup";
  static constexpr int kCapability = CAP_DAC_OVERRIDE;  // the root cgroup is 0555

  std::string vm;

  bool operator==(const MakeCgroup&) const = default;

  static MakeCgroup read(Fields& fields);
  void write(Json& json) const;
  [[nodiscard]] std::string describe() const;
  [[nodiscard]] std::string describe_undo() const;
  [[nodiscard]] std::string object() const;
  void check(const Host& host) const;
  [[nodiscard]] Json capture(const Host& host, const Context& context) const;
  void apply(Host& host, const Context& context, const Json& found, const Note& note) const;
  void undo(Host& host, const Json& found) const;
};

/// Where the cgroup of a VM is. Throws Failure (preflight) where cgroup2 cannot be used.
[[nodiscard]] std::string cgroup_of(const Host& host, const std::string& vm);

}  // namespace vmlaunch::launcher::steps
