#include "launcher/steps/override_driver.hpp"

#include "base/text.hpp"
#include "launcher/steps/pci_paths.hpp"

namespace vmlaunch::launcher::steps {

namespace {

std::string override_file(const base::PciAddress& device) {
  return device_folder(device) + "/driver_override";
}

/// The kernel shows "(null)" for none.
std::string current_override(const Host& host, const base::PciAddress& device) {
  const std::string shown = host.read_locked(override_file(device));
  return shown == "(null)" ? "" : shown;
}

}  // namespace

OverrideDriver OverrideDriver::read(Fields& fields) {
  OverrideDriver step;
  step.device = read_address(fields, "device");
  step.from = read_driver(fields, "from");
  return step;
}

void OverrideDriver::write(Json& json) const {
  json["device"] = base::to_string(device);
  json["from"] = from;
}

std::string OverrideDriver::describe() const {
  return "reserve " + base::to_string(device) + " for vfio-pci (driver_override)";
}

std::string OverrideDriver::describe_undo() const {
  return "driver_override as it was";
}

std::string OverrideDriver::object() const {
  return base::to_string(device);
}

void OverrideDriver::check(const Host& host) const {
  require_device(host, device);
}

Json OverrideDriver::capture(const Host& host, const Context& /*context*/) const {
  return {{"override", current_override(host, device)}};
}

void OverrideDriver::apply(Host& host,
                           const Context& /*context*/,
                           const Json& /*found*/,
                           const Note& /*note*/) const {
  host.write(override_file(device), kVfioDriver);
}

void OverrideDriver::undo(Host& host, const Json& found) const {
  Fields fields(found);
  const std::string before = read_driver(fields, "override");
  require_still_there(host, device);
  const std::string now = current_override(host, device);
  if (now == before) {
    return;
  }
  // The way back to its driver leads over an override with that driver's name.
  if (now != kVfioDriver && now != from) {
    throw ChangedMeanwhile(override_file(device) + " is \"" + base::printable(now) + "\", was \"" +
                           before + "\"");
  }
  host.write(override_file(device), before);  // an empty line clears it
}

}  // namespace vmlaunch::launcher::steps
