#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/pci_address.hpp"
#include "launcher/config/usb_rule.hpp"
#include "launcher/steps/lock.hpp"
#include "launcher/steps/step.hpp"

namespace vmlaunch::launcher::steps {

/// The PCI devices that running VMs have, each with who has it: "the VM win10 has it (…)".
[[nodiscard]] std::map<base::PciAddress, std::string> reserved_devices(const std::string& folder);

/// The same for the rules by which they have USB devices.
[[nodiscard]] std::map<config::UsbRule, std::string> reserved_usb(const std::string& folder);

/// The same for CPUs.
[[nodiscard]] std::map<unsigned, std::string> reserved_cpus(const std::string& folder);

/// What one run keeps from others for as long as this lives: a lock for each name that its steps
/// reserve, and for a while one for what they take turns at.
class Reservations {
 public:
  explicit Reservations(Lock::Purpose purpose, std::string vm = "")
      : purpose_(purpose), vm_(std::move(vm)) {}

  /// All that the steps reserve, with nobody else taking anything meanwhile: of two runs that want
  /// the same, in whatever order, one gets it. Throws Failure (held) with whoever has a part.
  void take_all(const std::string& folder, const std::vector<Step>& steps);

  void take(const std::string& folder, const Step& step);

  /// Waits for the step's turn, and keeps it until end_turns. Throws as Lock::wait_for does.
  void take_turn(const std::string& folder,
                 const Step& step,
                 const std::function<void(const std::string& text)>& waiting = {});
  void end_turns() { turns_.clear(); }

  /// What take would throw, without taking anything.
  static void require_free(const std::string& folder, const Step& step);

 private:
  Lock::Purpose purpose_;
  std::string vm_;
  std::map<std::string, Lock> locks_;
  std::map<std::string, Lock> turns_;
};

}  // namespace vmlaunch::launcher::steps
