#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/pci_address.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// What is wrong with functions that no guest has at the moment, as far as can be seen without a
/// driver: a configuration space that reads as ff, a sleep from which one does not wake, windows
/// that are gone, and what the kernel has said of them since number `since` of its log. "":
/// nothing.
[[nodiscard]] std::string find_fault(const Host& host,
                                     const std::vector<base::PciAddress>& functions,
                                     std::uint64_t since);

/// Whether a function's configuration space is there at all.
[[nodiscard]] bool answers(const Host& host, const base::PciAddress& function);

}  // namespace vmlaunch::launcher::steps
