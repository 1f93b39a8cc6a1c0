#include "launcher/steps/reservations.hpp"

#include <optional>
#include <utility>

#include "base/text.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

[[noreturn]] void refuse(const std::string& folder, const std::string& name) {
  throw Failure(
      ExitCode::held,
      "Cannot take " + name + ": " + Lock::describe_owner(folder, name) + "; stop that first");
}

}  // namespace

std::map<base::PciAddress, std::string> reserved_devices(const std::string& folder) {
  std::map<base::PciAddress, std::string> all;
  for (const auto& [name, by] : Lock::had_by_runs(folder)) {
    if (const auto device = base::parse_pci_address(name)) {
      all.emplace(*device, by);
    }
  }
  return all;
}

std::map<config::UsbRule, std::string> reserved_usb(const std::string& folder) {
  std::map<config::UsbRule, std::string> all;
  for (const auto& [name, by] : Lock::had_by_runs(folder)) {
    const auto rule = name.starts_with(kUsbLock)
                          ? config::parse_usb_rule(name.substr(kUsbLock.size()))
                          : std::nullopt;
    if (rule) {
      all.emplace(*rule, by);
    }
  }
  return all;
}

std::map<unsigned, std::string> reserved_cpus(const std::string& folder) {
  std::map<unsigned, std::string> all;
  for (const auto& [name, by] : Lock::had_by_runs(folder)) {
    const auto cpu = name.starts_with(kCpuLock)
                         ? base::parse_number<unsigned>(name.substr(kCpuLock.size()))
                         : std::nullopt;
    if (cpu) {
      all.emplace(*cpu, by);
    }
  }
  return all;
}

void Reservations::take_all(const std::string& folder, const std::vector<Step>& steps) {
  const Lock turn = Lock::wait_for(folder, "other starts", vm_);
  for (const Step& step : steps) {
    take(folder, step);
  }
}

void Reservations::take(const std::string& folder, const Step& step) {
  for (const std::string& name : step->reserves()) {
    if (locks_.contains(name)) {
      continue;
    }
    std::optional<Lock> lock = Lock::take(folder, name, purpose_, vm_);
    if (!lock) {
      refuse(folder, name);
    }
    locks_.emplace(name, std::move(*lock));
  }
}

void Reservations::take_turn(const std::string& folder,
                             const Step& step,
                             const std::function<void(const std::string& text)>& waiting) {
  const std::string name = step->turn();
  if (!name.empty() && !turns_.contains(name)) {
    turns_.emplace(name, Lock::wait_for(folder, name, vm_, waiting));
  }
}

void Reservations::require_free(const std::string& folder, const Step& step) {
  for (const std::string& name : step->reserves()) {
    if (Lock::holder(folder, name)) {
      refuse(folder, name);
    }
  }
}

}  // namespace vmlaunch::launcher::steps
