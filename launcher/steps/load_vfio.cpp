#include <linux/capability.h>
#include <sys/utsname.h>

#include <memory>
#include <system_error>

#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/steps.hpp"

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

/// Loads vfio-pci. It stays loaded: taking it away would hurt other VMs, and fails where it is
/// built in.
class LoadVfio final : public Change {
 public:
  const char* kind() const override { return "load-vfio"; }
  int capability() const override { return CAP_SYS_MODULE; }

  Step read(Fields& /*fields*/) const override { return load_vfio(); }
  void write(Json& /*json*/) const override {}

  std::string describe() const override { return "load the kernel module vfio-pci"; }
  std::string describe_undo() const override { return "nothing, it stays loaded"; }
  std::string object() const override { return "vfio-pci"; }

  void check(const Host& host) const override {
    if (!is_loaded(host) && !host.tree().exists(modules_folder())) {
      throw Failure(ExitCode::preflight,
                    "Cannot load vfio-pci: " + modules_folder() +
                        " is not there; after a new kernel was installed, reboot into it");
    }
  }

  Json capture(const Host& /*host*/, const Context& /*context*/) const override {
    return Json::object();
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
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

  void undo(Host& /*host*/, const Json& /*found*/) const override {}
};

}  // namespace

Step load_vfio() {
  return Step(std::make_shared<LoadVfio>());
}

}  // namespace vmlaunch::launcher::steps
