#pragma once

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

/// Fills in QEMU's arguments and the files that they name. Values that a user chose are passed in
/// JSON or by descriptor, never pasted into an option, so no comma or quote in a path means
/// anything.
void add_qemu_arguments(const config::VmSpec& spec,
                        const survey::Survey& survey,
                        bool kvm,
                        Plan& plan);

}  // namespace vmlaunch::launcher::plan
