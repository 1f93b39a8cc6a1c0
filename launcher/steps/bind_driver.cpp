#include <linux/capability.h>

#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/steps/device_change.hpp"
#include "launcher/steps/steps.hpp"

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

/// Takes a device from its driver and binds it to vfio-pci; back to the driver that had it.
class BindDriver final : public DeviceChange {
 public:
  BindDriver(const base::PciAddress& device, std::string from)
      : DeviceChange(device), from_(std::move(from)) {}

  const char* kind() const override { return "bind-driver"; }
  int capability() const override { return CAP_SYS_MODULE; }

  Step read(Fields& fields) const override {
    const base::PciAddress device = read_address(fields, "device");
    return bind_driver(device, read_driver(fields, "from"));
  }
  void write(Json& json) const override {
    DeviceChange::write(json);
    json["from"] = from_;
  }

  std::string describe() const override {
    return "bind " + base::to_string(device()) + " to vfio-pci; it has " + named(from_);
  }
  std::string describe_undo() const override {
    return from_.empty() ? "unbound" : "back to " + named(from_);
  }

  void check(const Host& host) const override {
    DeviceChange::check(host);
    if (const std::string now = driver_of(host, device()); now != from_) {
      throw Failure(ExitCode::device_busy,
                    "Cannot take " + base::to_string(device()) + ": it has " + named(now) +
                        " now, and had " + named(from_) + " a moment ago; try again");
    }
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    check(host);
    std::string module;
    if (!from_.empty()) {
      module = host.tree().link_name(driver_folder(from_) + "/module").value_or("");
    }
    return {{"module", module}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    if (!from_.empty()) {
      // An unbind under an open node sleeps in the kernel, or takes the driver with it.
      if (const std::vector<Holder> holders = host.holders(device()); !holders.empty()) {
        refuse_held(device(), holders);
      }
      unbind(host, device());
    }
    probe(host, device(), kVfioDriver);
    // vfio-pci lets what it takes over sleep (pm_runtime_allow); the step that keeps the device
    // awake came before, and puts back what was there at the end.
    if (host.tree().read(device_folder(device()) + "/power/control") == "auto") {
      host.write(device_folder(device()) + "/power/control", "on");
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::string module = read_driver(fields, "module");
    require_still_there(host, device());
    // Shown under the device's lock: a write of a killed run that has begun is over then.
    static_cast<void>(host.read_locked(device_folder(device()) + "/driver_override"));
    const std::string now = driver_of(host, device());
    if (now == from_) {
      return;
    }
    if (!now.empty() && now != kVfioDriver) {
      throw ChangedMeanwhile(base::to_string(device()) + " has " + named(now) + ", had " +
                             named(from_) + "; type: " + by_hand());
    }
    if (!from_.empty()) {
      require_driver(host, from_, module);
      // Not cleared yet: between an unbind and a probe anybody's probe could take the device.
      host.write(device_folder(device()) + "/driver_override", from_);
    }
    if (!now.empty()) {
      unbind(host, device());
    }
    if (!from_.empty()) {
      probe(host, device(), from_);
    }
  }

 private:
  /// What puts the device back, for a shell.
  std::string by_hand() const {
    const std::string write = "echo " + base::to_string(device()) + " > ";
    const std::string unbind = write + device_folder(device()) + "/driver/unbind";
    return from_.empty()
               ? unbind
               : unbind + " && " + write + base::shell_quote(driver_folder(from_) + "/bind");
  }

  std::string from_;  ///< the driver that the survey found, "" for none
};

}  // namespace

Step bind_driver(const base::PciAddress& device, std::string from) {
  return Step(std::make_shared<BindDriver>(device, std::move(from)));
}

}  // namespace vmlaunch::launcher::steps
