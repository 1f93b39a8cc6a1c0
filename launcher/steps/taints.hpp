#pragma once

#include <map>
#include <optional>
#include <string>

#include "base/pci_address.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

/// A device that did not come back from a guest: nobody is to have it before the host has been
/// without power. Kept in /run/vmlaunch/taints, for as long as the kernel runs.
struct Taint {
  std::string vm;     ///< whose guest had it
  std::string fault;  ///< what is wrong with it

  bool operator==(const Taint&) const = default;
};

/// Nothing for a device without one; one of an earlier boot counts for nothing.
[[nodiscard]] std::optional<Taint> find_taint(const Host& host, const base::PciAddress& device);

/// Of all devices that have one.
[[nodiscard]] std::map<base::PciAddress, Taint> find_taints(const Host& host);

void set_taint(const Host& host, const base::PciAddress& device, const Taint& taint);
void clear_taint(const Host& host, const base::PciAddress& device);

/// For messages: what it is, and what can be done.
[[nodiscard]] std::string describe(const base::PciAddress& device, const Taint& taint);

}  // namespace vmlaunch::launcher::steps
