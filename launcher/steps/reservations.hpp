#pragma once

#include <map>
#include <string>

#include "base/pci_address.hpp"
#include "launcher/steps/lock.hpp"
#include "launcher/steps/step.hpp"

namespace vmlaunch::launcher::steps {

/// The PCI devices that running VMs have, each with who has it: " (its guardian is pid 17)".
[[nodiscard]] std::map<base::PciAddress, std::string> reserved_devices(const std::string& folder);

/// What one run keeps from others for as long as this lives: a lock for each name that its steps
/// reserve.
class Reservations {
 public:
  explicit Reservations(Lock::Purpose purpose) : purpose_(purpose) {}

  /// Throws Failure (held) with whoever has what `step` reserves.
  void take(const std::string& folder, const Step& step);

  /// The same without taking anything.
  static void require_free(const std::string& folder, const Step& step);

 private:
  Lock::Purpose purpose_;
  std::map<std::string, Lock> locks_;
};

}  // namespace vmlaunch::launcher::steps
