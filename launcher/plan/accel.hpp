#pragma once

#include <optional>
#include <string>

#include "launcher/config/config.hpp"
#include "launcher/identity.hpp"
#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::plan {

/// The accelerator that was chosen and why it is not the best.
struct AccelChoice {
  bool kvm = false;
  std::optional<std::string> warning;
};

/// "auto" takes KVM where it can run an ordinary guest. Throws Failure (preflight) when the config
/// insists on KVM and it cannot be used. `privileged`: QEMU gets nodes of its own.
[[nodiscard]] AccelChoice choose_accel(config::Accel wanted,
                                       const survey::Kvm& kvm,
                                       bool privileged);

}  // namespace vmlaunch::launcher::plan
