#pragma once

#include <set>
#include <string>
#include <vector>

#include "launcher/survey/pci.hpp"

namespace vmlaunch::launcher::survey {

/// How functions that are reset together can be brought back to what they were at power-on, going
/// by sysfs. That is a hint: a multi-function card lists methods that do not work. What counts is
/// vfio's own answer, once it has them. Sources: the order and rules of methods in
/// drivers/pci/pci.c, vfio_pci_dev_set_resettable() in drivers/vfio/pci/vfio_pci_core.c.
struct ResetOutlook {
  enum class Kind {
    function,  ///< each by a method of its own
    power,     ///< the same, some only by sleep (D3hot) and back
    bus,       ///< by its bus, where it is alone
    hot,       ///< by their bus, all of them together (vfio's hot reset)
    blocked,   ///< that would also reset what is not ours
    none,
  };
  Kind kind = Kind::none;
  std::set<std::string> methods;  ///< of function and power: the kernel's first of each
  std::vector<base::PciAddress> without = {};  ///< of blocked and none: those of several that have
                                               ///< no method
  std::vector<std::string> obstacles = {};     ///< of blocked: what is in the way, and why

  bool operator==(const ResetOutlook&) const = default;

  [[nodiscard]] bool is_possible() const { return kind != Kind::blocked && kind != Kind::none; }
};

/// Functions that one reset may concern: those of the same bus. On a root bus each is a device of
/// its own, and so is a virtual one.
[[nodiscard]] bool share_reset(const PciFunction& a, const PciFunction& b);

/// What is behind a bridge, at whatever depth, and not ours, each with why a reset of the bus would
/// be refused for it.
[[nodiscard]] std::vector<std::string> obstacles_behind(const Pci& pci,
                                                        const base::PciAddress& bridge,
                                                        const std::set<base::PciAddress>& ours);

/// `functions`: some that share their reset; `ours`: all that vfio will have for the same guest.
[[nodiscard]] ResetOutlook reset_outlook(const Pci& pci,
                                         const std::vector<base::PciAddress>& functions,
                                         const std::set<base::PciAddress>& ours);

/// The same for the card of a function, if all of that is given away.
[[nodiscard]] ResetOutlook reset_outlook(const Pci& pci, const PciFunction& function);

/// "hot reset of its bus, all functions together"
[[nodiscard]] std::string to_string(const ResetOutlook& outlook);

/// For programs: "function", "power", …
[[nodiscard]] const char* to_string(ResetOutlook::Kind kind);

/// Whether vendor-reset (a kernel module that Debian does not have) knows the card's own way: some
/// of AMD's, before the RX 6000 series. Source: the module's list of devices.
[[nodiscard]] bool has_vendor_reset(const PciFunction& function);

}  // namespace vmlaunch::launcher::survey
