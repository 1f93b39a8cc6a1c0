#pragma once

#include <set>
#include <string>
#include <vector>

#include "base/pci_address.hpp"
#include "launcher/config/config.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// A function as it was found: the methods that the kernel would try, in its order.
struct Resettable {
  base::PciAddress device;
  std::string methods;  ///< of reset_method; "": it has none

  bool operator==(const Resettable&) const = default;
};

[[nodiscard]] Resettable look_at_reset(const Host& host, const base::PciAddress& device);

/// What came of a card's reset.
struct ResetResult {
  std::vector<std::string> tried;  ///< a line for each attempt: "0000:01:00.0 by flr: done"
  std::string fault;               ///< what is wrong at the end; "": it works
  std::string lost;                ///< what of the host could not be put back; "": nothing
};

/// Resets functions that share their reset, are with vfio and that nobody has open, and looks
/// whether they work. One way after the other, each with a deadline of its own, until one has reset
/// all of them and nothing is wrong: each function's own methods, one at a time, since the kernel
/// stops at the first that fails with anything but ENOTTY (__pci_reset_function_locked(),
/// drivers/pci/pci.c); vfio's hot reset; then what `allowed` has. That there is no way is no fault.
/// The list of methods is as it was afterwards. Throws Stuck; ChangedMeanwhile for a function that
/// is gone.
[[nodiscard]] ResetResult reset_and_verify(Host& host,
                                           const std::vector<Resettable>& functions,
                                           const std::set<config::ResetRung>& allowed);

/// Puts back a list of methods that was rewritten, perhaps by a killed run. Throws Lost.
void restore_methods(Host& host, const Resettable& function);

}  // namespace vmlaunch::launcher::steps
