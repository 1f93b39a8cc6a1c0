#pragma once

#include <set>
#include <utility>
#include <vector>

#include "base/pci_address.hpp"
#include "launcher/steps/host.hpp"
#include "launcher/wire.hpp"

namespace vmlaunch::launcher::steps {

/// Functions of one bus that are removed and found anew together: the kernel sets each up from
/// nothing then, and gives it other memory windows.
class Card {
 public:
  explicit Card(std::vector<base::PciAddress> functions) : functions_(std::move(functions)) {}

  /// What its functions are to be again: settings, which a removed function forgets, and drivers.
  [[nodiscard]] Json look(const Host& host) const;

  [[nodiscard]] bool is_there(const Host& host) const;

  void remove(Host& host) const;

  /// Has the kernel look for what is not there. Returns when all is, or at the deadline.
  void find(Host& host) const;

  /// Finds what is not there, and makes each what look() told; those in `left` stay as they are.
  /// Throws ChangedMeanwhile for a function that stays away or is another one, FormError for
  /// anything that look() did not tell.
  void bring_back(Host& host, const Json& found, const std::set<base::PciAddress>& left = {}) const;

 private:
  std::vector<base::PciAddress> functions_;
};

}  // namespace vmlaunch::launcher::steps
