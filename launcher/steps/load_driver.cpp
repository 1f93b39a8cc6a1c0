#include <linux/capability.h>
#include <sys/utsname.h>

#include <algorithm>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

std::string modules_folder() {
  utsname kernel{};
  ::uname(&kernel);
  return std::string("/lib/modules/") + kernel.release;
}

/// Loads a driver that devices are taken to, or one that resets them. It stays loaded: taking it
/// away would hurt other VMs, and fails where it is built in.
class LoadDriver final : public Change {
 public:
  explicit LoadDriver(std::string driver) : driver_(std::move(driver)) {}

  const char* kind() const override { return "load-driver"; }
  std::vector<int> capabilities() const override { return {CAP_SYS_MODULE}; }

  Step read(Fields& fields) const override {
    const bool vendor_reset = fields.text("driver") == kVendorReset;
    return load_driver(vendor_reset ? kVendorReset : read_taker(fields, "driver"));
  }
  void write(Json& json) const override { json["driver"] = driver_; }

  std::string describe() const override { return "load the kernel module " + driver_; }
  std::string describe_undo() const override { return "nothing, it stays loaded"; }
  std::string object() const override { return driver_; }

  void check(const Host& host) const override {
    if (!is_loaded(host) && !host.tree().exists(modules_folder())) {
      throw Failure(ExitCode::preflight,
                    "Cannot load " + driver_ + ": " + modules_folder() +
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
      host.load_module(driver_);
    } catch (const std::system_error&) {
      // What counts is whether it is there.
    }
    if (!is_loaded(host)) {
      throw Failure(
          ExitCode::preflight,
          "Cannot load " + driver_ + "; type: modprobe -v " + driver_ + ", and dmesg | tail");
    }
  }

  void undo(Host& /*host*/, const Json& /*found*/) const override {}

 private:
  [[nodiscard]] bool is_loaded(const Host& host) const {
    std::string module = driver_;
    std::replace(module.begin(), module.end(), '-', '_');
    return host.tree().exists(driver_folder(driver_)) ||
           (driver_ == kVendorReset && host.tree().exists("/sys/module/" + module));
  }

  std::string driver_;
};

}  // namespace

Step load_driver(std::string driver) {
  return Step(std::make_shared<LoadDriver>(std::move(driver)));
}

}  // namespace vmlaunch::launcher::steps
