#pragma once

#include <set>
#include <vector>

#include "base/cpu_set.hpp"
#include "base/pci_address.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::guardian {

/// Puts the interrupts that the guest's devices have now on the CPUs of its vCPUs, in turn: KVM
/// passes each on without a detour there. They come when the guest's drivers ask for them, and go
/// with QEMU. Throws Stuck, and std::system_error; an interrupt that is gone meanwhile is none.
void place_interrupts(steps::Host& host,
                      const std::set<base::PciAddress>& devices,
                      const std::vector<base::CpuSet>& vcpus);

}  // namespace vmlaunch::launcher::guardian
