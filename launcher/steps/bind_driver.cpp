#include "launcher/steps/bind_driver.hpp"

#include <cerrno>
#include <system_error>

#include "base/text.hpp"
#include "launcher/steps/pci_paths.hpp"

namespace vmlaunch::launcher::steps {

namespace {

std::string driver_of(const Host& host, const base::PciAddress& device) {
  return host.tree().link_name(device_folder(device) + "/driver").value_or("");
}

std::string named(const std::string& driver) {
  return driver.empty() ? "no driver" : base::printable(driver);
}

void unbind(Host& host, const base::PciAddress& device) {
  host.write_to_driver(device_folder(device) + "/driver/unbind", base::to_string(device));
}

/// Whether the write says that it failed is no matter: some drivers refuse, and some kernels return
/// an error for "no driver took it". Where the device is counts.
void probe(Host& host, const base::PciAddress& device, const std::string& driver) {
  std::string cause;
  try {
    host.write_to_driver("/sys/bus/pci/drivers_probe", base::to_string(device));
  } catch (const std::system_error& error) {
    cause = std::string(": ") + error.what();
  }
  if (driver_of(host, device) != driver) {
    throw Failure(ExitCode::failed,
                  "Cannot bind " + base::to_string(device) + " to " + driver + cause + "; it has " +
                      named(driver_of(host, device)) + "; type: dmesg | grep " +
                      base::to_string(device));
  }
}

void require_driver(Host& host, const std::string& driver, const std::string& module) {
  if (!module.empty() && !host.tree().exists(driver_folder(driver))) {
    host.load_module(module);
  }
}

}  // namespace

BindDriver BindDriver::read(Fields& fields) {
  BindDriver step;
  step.device = read_address(fields, "device");
  step.from = read_driver(fields, "from");
  return step;
}

void BindDriver::write(Json& json) const {
  json["device"] = base::to_string(device);
  json["from"] = from;
}

std::string BindDriver::describe() const {
  return "bind " + base::to_string(device) + " to vfio-pci; it has " + named(from);
}

std::string BindDriver::describe_undo() const {
  return from.empty() ? "unbound" : "back to " + named(from);
}

std::string BindDriver::object() const {
  return base::to_string(device);
}

void BindDriver::check(const Host& host) const {
  require_device(host, device);
  if (const std::string now = driver_of(host, device); now != from) {
    throw Failure(ExitCode::device_busy,
                  "Cannot take " + base::to_string(device) + ": it has " + named(now) +
                      " now, and had " + named(from) + " a moment ago; try again");
  }
}

Json BindDriver::capture(const Host& host, const Context& /*context*/) const {
  check(host);
  std::string module;
  if (!from.empty()) {
    module = host.tree().link_name(driver_folder(from) + "/module").value_or("");
  }
  return {{"module", module}};
}

void BindDriver::apply(Host& host,
                       const Context& /*context*/,
                       const Json& /*found*/,
                       const Note& /*note*/) const {
  if (!from.empty()) {
    unbind(host, device);
  }
  probe(host, device, kVfioDriver);
  // vfio-pci lets what it takes over sleep (pm_runtime_allow); the step that keeps the device awake
  // came before, and puts back what was there at the end.
  if (host.tree().read(device_folder(device) + "/power/control") == "auto") {
    host.write(device_folder(device) + "/power/control", "on");
  }
}

void BindDriver::undo(Host& host, const Json& found) const {
  Fields fields(found);
  const std::string module = read_driver(fields, "module");
  require_still_there(host, device);
  const std::string now = driver_of(host, device);
  if (now == from) {
    return;
  }
  if (!now.empty() && now != kVfioDriver) {
    throw ChangedMeanwhile(base::to_string(device) + " has " + named(now) + ", had " + named(from));
  }
  if (!from.empty()) {
    require_driver(host, from, module);
    // Not cleared yet: between an unbind and a probe anybody's probe could take the device.
    host.write(device_folder(device) + "/driver_override", from);
  }
  if (!now.empty()) {
    unbind(host, device);
  }
  if (!from.empty()) {
    probe(host, device, from);
  }
}

}  // namespace vmlaunch::launcher::steps
