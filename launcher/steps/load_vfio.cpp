#include "launcher/steps/load_vfio.hpp"

#include <sys/utsname.h>

#include <system_error>

#include "launcher/steps/pci_paths.hpp"

namespace vmlaunch::launcher::steps {

namespace {

bool is_loaded(const Host& host) {
  return host.tree().exists(driver_folder(kVfioDriver));
}

std::string modules_folder() {
  utsname kernel{};
  ::uname(&kernel);
  return std::string("/lib/modules/") + kernel.release;
}

}  // namespace

LoadVfio LoadVfio::read(Fields& /*fields*/) {
  return {};
}

void LoadVfio::write(Json& /*json*/) const {}

std::string LoadVfio::describe() const {
  return "load the kernel module vfio-pci";
}

std::string LoadVfio::describe_undo() const {
  return "nothing, it stays loaded";
}

std::string LoadVfio::object() const {
  return "vfio-pci";
}

void LoadVfio::check(const Host& host) const {
  if (!is_loaded(host) && !host.tree().exists(modules_folder())) {
    throw Failure(ExitCode::preflight,
                  "Cannot load vfio-pci: " + modules_folder() +
                      " is not there; after a new kernel was installed, reboot into it");
  }
}

Json LoadVfio::capture(const Host& /*host*/, const Context& /*context*/) const {
  return Json::object();
}

void LoadVfio::apply(Host& host,
                     const Context& /*context*/,
                     const Json& /*found*/,
                     const Note& /*note*/) const {
  if (is_loaded(host)) {
    return;
  }
  try {
    host.load_module("vfio-pci");
  } catch (const std::system_error&) {
    // What counts is whether it is there.
  }
  if (!is_loaded(host)) {
    throw Failure(ExitCode::preflight,
                  "Cannot load vfio-pci; type: modprobe -v vfio-pci, and dmesg | tail");
  }
}

void LoadVfio::undo(Host& /*host*/, const Json& /*found*/) const {}

}  // namespace vmlaunch::launcher::steps
