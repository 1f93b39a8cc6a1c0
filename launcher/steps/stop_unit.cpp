#include <chrono>
#include <ctime>
#include <memory>
#include <optional>
#include <utility>

#include "base/text.hpp"
#include "launcher/config/values.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using std::chrono::steady_clock;

/// How often systemd is asked, and the one who waits is told.
constexpr timespec kLook{0, 200'000'000};
constexpr std::chrono::seconds kWord{3};

/// Stops a unit of systemd, and starts it again once the devices that it may use have their
/// drivers.
class StopUnit final : public Change {
 public:
  StopUnit(std::string unit, std::vector<DriverOf> devices)
      : unit_(std::move(unit)), devices_(std::move(devices)) {}

  const char* kind() const override { return "stop-unit"; }

  Step read(Fields& fields) const override {
    std::string unit = fields.text("unit");
    if (!config::is_unit_name(unit)) {
      throw FormError("not a unit's name");
    }
    constexpr std::size_t kMostDevices = 256;
    std::vector<DriverOf> devices;
    for (const Json& json : fields.array("devices", kMostDevices)) {
      Fields device(json);
      devices.push_back({read_address(device, "device"), read_driver(device, "driver")});
      device.finish();
    }
    return stop_unit(std::move(unit), std::move(devices));
  }

  void write(Json& json) const override {
    json["unit"] = unit_;
    json["devices"] = Json::array();
    for (const DriverOf& one : devices_) {
      json["devices"].push_back({{"device", base::to_string(one.device)}, {"driver", one.driver}});
    }
  }

  std::string describe() const override { return "stop " + unit_ + " if it runs"; }
  std::string describe_undo() const override {
    return devices_.empty() ? "started again"
                            : "started again, once the devices have their drivers";
  }
  std::string object() const override { return unit_; }
  // No VM's name has a colon.
  std::vector<std::string> reserves() const override { return {"unit:" + unit_}; }

  void check(const Host& host) const override { static_cast<void>(look(host)); }

  Json capture(const Host& host, const Context& /*context*/) const override {
    return {{"ran", look(host).is_up()}};
  }

  void apply(Host& host,
             const Context& context,
             const Json& found,
             const Note& /*note*/) const override {
    if (!found.at("ran").get<bool>()) {
      return;
    }
    host.stop_unit(unit_);
    const systemd::Unit now = settled(host, "stop", context.waiting);
    if (now.active_state != "inactive" && now.active_state != "failed") {
      throw Failure(ExitCode::failed,
                    "Cannot stop " + unit_ + ": it is " + base::printable(now.active_state) +
                        "; type: systemctl status " + base::shell_quote(unit_));
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    if (!fields.boolean("ran")) {
      return;
    }
    if (const systemd::Unit now = host.unit(unit_); now.is_up() && !now.has_job) {
      return;
    }
    for (const DriverOf& one : devices_) {
      require_driver_back(host, one);
    }
    host.start_unit(unit_);
    const systemd::Unit now = settled(host, "start", [](const std::string&) {});
    if (!now.is_up()) {
      throw Failure(ExitCode::failed,
                    "it is " + base::printable(now.active_state) + "; type: systemctl status " +
                        base::shell_quote(unit_));
    }
  }

 private:
  systemd::Unit look(const Host& host) const {
    systemd::Unit unit = [&] {
      try {
        return host.unit(unit_);
      } catch (const std::system_error& error) {
        throw Failure(ExitCode::preflight,
                      std::string("Cannot ") + error.what() + "; type: systemctl status dbus");
      }
    }();
    if (!unit.loaded) {
      throw Failure(ExitCode::preflight,
                    "Cannot stop " + unit_ + ": systemd has no such unit; type: systemctl status " +
                        base::shell_quote(unit_));
    }
    if (unit.is_up() && !unit.can_return) {
      throw Failure(ExitCode::preflight,
                    "Cannot stop " + unit_ +
                        ": systemd could not start it again afterwards; type: systemctl show " +
                        base::shell_quote(unit_) + " -p CanStart -p CanStop -p Transient");
    }
    return unit;
  }

  /// As it is when systemd is done with it.
  systemd::Unit settled(const Host& host,
                        const std::string& verb,
                        const std::function<void(const std::string&)>& tell) const {
    const auto start = steady_clock::now();
    auto word = start + kWord;
    for (systemd::Unit unit = host.unit(unit_);; unit = host.unit(unit_)) {
      const auto now = steady_clock::now();
      if (!unit.has_job) {
        return unit;
      }
      if (now > start + host.deadlines().unit) {
        throw Failure(ExitCode::failed,
                      "Cannot " + verb + " " + unit_ + ": systemd has not done it for " +
                          base::to_string(host.deadlines().unit) + "; type: systemctl list-jobs");
      }
      if (now > word) {
        const auto waited = std::chrono::duration_cast<std::chrono::seconds>(now - start);
        tell("systemd is to " + verb + " " + unit_ + " (" + std::to_string(waited.count()) + "s)");
        word = now + kWord;
      }
      ::nanosleep(&kLook, nullptr);
    }
  }

  /// Without its card a display manager fails, or takes another one.
  void require_driver_back(const Host& host, const DriverOf& one) const {
    if (const std::string driver = driver_of(host, one.device); driver != one.driver) {
      throw Failure(ExitCode::failed,
                    "it is not started, since " + base::to_string(one.device) + " has " +
                        named(driver) + " and not " + named(one.driver) +
                        "; once that is put right, type: systemctl start " +
                        base::shell_quote(unit_));
    }
  }

  std::string unit_;
  std::vector<DriverOf> devices_;
};

}  // namespace

Step stop_unit(std::string unit, std::vector<DriverOf> devices) {
  return Step(std::make_shared<StopUnit>(std::move(unit), std::move(devices)));
}

}  // namespace vmlaunch::launcher::steps
