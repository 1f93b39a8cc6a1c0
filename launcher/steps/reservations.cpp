#include "launcher/steps/reservations.hpp"

#include <optional>
#include <utility>

namespace vmlaunch::launcher::steps {

namespace {

[[noreturn]] void refuse(const std::string& folder, const std::string& name) {
  throw Failure(ExitCode::held,
                "Cannot take " + name + ": a VM that runs has it" +
                    Lock::describe_holder(folder, name) + "; stop that first");
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

void Reservations::take(const std::string& folder, const Step& step) {
  const std::string name = step->reserves();
  if (name.empty() || locks_.contains(name)) {
    return;
  }
  std::optional<Lock> lock = Lock::take(folder, name, purpose_);
  if (!lock) {
    refuse(folder, name);
  }
  locks_.emplace(name, std::move(*lock));
}

void Reservations::require_free(const std::string& folder, const Step& step) {
  const std::string name = step->reserves();
  if (!name.empty() && Lock::holder(folder, name)) {
    refuse(folder, name);
  }
}

}  // namespace vmlaunch::launcher::steps
