#include <memory>
#include <utility>

#include "base/text.hpp"
#include "launcher/steps/device_change.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/pci.hpp"

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

/// Says which driver alone may take a device (driver_override). Nothing moves yet; but from here on
/// whoever probes the device cannot take it away from that one.
class OverrideDriver final : public DeviceChange {
 public:
  OverrideDriver(const base::PciAddress& device, std::string from, std::string to)
      : DeviceChange(device), from_(std::move(from)), to_(std::move(to)) {}

  const char* kind() const override { return "override-driver"; }

  Step read(Fields& fields) const override {
    const base::PciAddress device = read_address(fields, "device");
    std::string from = read_driver(fields, "from");
    return override_driver(device, std::move(from), read_taker(fields, "to"));
  }
  void write(Json& json) const override {
    DeviceChange::write(json);
    json["from"] = from_;
    json["to"] = to_;
  }

  std::string describe() const override {
    return "reserve " + base::to_string(device()) + " for " + to_ + " (driver_override)";
  }
  std::string describe_undo() const override { return "driver_override as it was"; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    const std::string now = current_override(host, device());
    if (!now.empty() && !survey::is_driver_name(now)) {
      throw Failure(ExitCode::preflight,
                    "Cannot take " + base::to_string(device()) + ": its driver_override \"" +
                        base::printable(now) + "\" is no driver's name; type: echo > " +
                        override_file(device()));
    }
    return {{"override", now}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    host.write(override_file(device()), to_);
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::string before = read_driver(fields, "override");
    require_still_there(host, device());
    const std::string now = current_override(host, device());
    if (now == before) {
      return;
    }
    // The way back to its driver leads over an override with that driver's name.
    if (now != to_ && (from_.empty() || now != from_)) {
      throw ChangedMeanwhile(override_file(device()) + " is \"" + base::printable(now) +
                             "\", was \"" + before + "\"; type: echo " +
                             (before.empty() ? "" : base::shell_quote(before) + " ") + "> " +
                             override_file(device()));
    }
    host.write(override_file(device()), before);  // an empty line clears it
  }

 private:
  std::string from_;  ///< the driver that the survey found, "" for none
  std::string to_;
};

}  // namespace

Step override_driver(const base::PciAddress& device, std::string from, std::string to) {
  return Step(std::make_shared<OverrideDriver>(device, std::move(from), std::move(to)));
}

}  // namespace vmlaunch::launcher::steps
