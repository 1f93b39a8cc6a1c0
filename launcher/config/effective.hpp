#pragma once

#include "launcher/config/vm_spec.hpp"

namespace vmlaunch::launcher::config {

/// The spec as a config again, with every default written out.
[[nodiscard]] Json effective(const VmSpec& spec);

}  // namespace vmlaunch::launcher::config
