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

void require_driver(Host& host, const std::string& driver, const std::string& module) {
  if (!module.empty() && !host.tree().exists(driver_folder(driver))) {
    host.load_module(module);
  }
}

/// Takes a device from its driver and binds it to vfio-pci, or to pci-stub, which only keeps it
/// from others; back to the driver that had it.
class BindDriver final : public DeviceChange {
 public:
  BindDriver(const base::PciAddress& device, std::string from, std::string to)
      : DeviceChange(device), from_(std::move(from)), to_(std::move(to)) {}

  const char* kind() const override { return "bind-driver"; }
  std::vector<int> capabilities() const override { return {CAP_SYS_MODULE}; }

  Step read(Fields& fields) const override {
    const base::PciAddress device = read_address(fields, "device");
    std::string from = read_driver(fields, "from");
    return bind_driver(device, std::move(from), read_taker(fields, "to"));
  }
  void write(Json& json) const override {
    DeviceChange::write(json);
    json["from"] = from_;
    json["to"] = to_;
  }

  std::string describe() const override {
    return "bind " + base::to_string(device()) + " to " + to_ + "; it has " + named(from_);
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
    probe_driver(host, device(), to_);
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
    if (!now.empty() && now != to_) {
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
      probe_driver(host, device(), from_);
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
  std::string to_;
};

}  // namespace

Step bind_driver(const base::PciAddress& device, std::string from, std::string to) {
  return Step(std::make_shared<BindDriver>(device, std::move(from), std::move(to)));
}

}  // namespace vmlaunch::launcher::steps
