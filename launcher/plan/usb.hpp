#pragma once

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

/// Adds the change of the host for each USB device that the guest gets; what the guest gets of PCI
/// is chosen before. Throws Failure with every problem: preflight for a device that is not there,
/// is one of several, cannot be given or must not be lost to the host; device_busy when a program
/// has it; held when a running VM has it.
void add_usb_steps(const config::VmSpec& spec,
                   const survey::Survey& survey,
                   const Identity& identity,
                   Plan& plan);

}  // namespace vmlaunch::launcher::plan
