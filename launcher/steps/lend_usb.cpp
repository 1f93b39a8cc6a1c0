#include <algorithm>
#include <cerrno>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/usb.hpp"
#include "launcher/survey/uses.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr const char* kProbe = "/sys/bus/usb/drivers_probe";
constexpr std::size_t kMostDevices = 127;
constexpr std::size_t kMostInterfaces = 256;

/// A device as it was found: what its drivers were.
struct Lent {
  config::UsbPort port;
  config::UsbIds ids;
  std::string configuration;                                   ///< "" for none
  std::vector<std::pair<std::string, std::string>> drivers{};  ///< by interface: those that had one
};

std::string configuration_file(const survey::UsbDevice& device) {
  return survey::kUsbDevices + device.name() + "/bConfigurationValue";
}

/// "" for none, and for a device that is gone meanwhile. Shown under the device's lock.
std::string configuration_of(const Host& host, const survey::UsbDevice& device) {
  try {
    return host.read_locked(configuration_file(device));
  } catch (const std::system_error&) {
    return "";
  }
}

/// A device or an interface.
bool is_there(const Host& host, const std::string& name) {
  return host.tree().exists(survey::kUsbDevices + name);
}

std::string driver_of_interface(const Host& host, const std::string& interface) {
  return host.tree().link_name(survey::kUsbDevices + interface + "/driver").value_or("");
}

/// What a rule means now. A hub is never given.
std::vector<survey::UsbDevice> meant(const Host& host, const config::UsbRule& rule) {
  survey::Reader reader(host.tree());
  std::vector<survey::UsbDevice> devices =
      look_at_usb(reader, survey::UsbNames::left_out).find(rule);
  std::erase_if(devices, [](const survey::UsbDevice& device) { return device.is_hub(); });
  return devices;
}

Json to_json(const Host& host, const survey::UsbDevice& device) {
  Json drivers = Json::array();
  for (const survey::UsbInterface& interface : device.interfaces) {
    if (!interface.driver.empty()) {
      drivers.push_back({{"interface", interface.name}, {"driver", interface.driver}});
    }
  }
  return {{"port", device.name()},
          {"ids", to_string(device.ids)},
          {"configuration", configuration_of(host, device)},
          {"drivers", drivers}};
}

template <typename Parse>
auto read_as(Fields& fields, const char* key, Parse parse) {
  const std::string text = fields.text(key);
  const auto value = parse(text);
  if (!value || to_string(*value) != text) {
    throw FormError(std::string("\"") + key + "\" is none of USB");
  }
  return *value;
}

/// What sysfs calls an interface of that device, so that nothing else is written about.
std::string read_interface(Fields& fields, const config::UsbPort& port) {
  std::string name = fields.text("interface");
  const std::string device = to_string(port) + ":";
  if (!name.starts_with(device) ||
      name.find_first_not_of("0123456789.", device.size()) != std::string::npos) {
    throw FormError("not an interface of the device");
  }
  return name;
}

Lent read_lent(const Json& json) {
  Fields fields(json);
  Lent lent{read_as(fields, "port", config::parse_usb_port),
            read_as(fields, "ids", config::parse_usb_ids),
            fields.text("configuration")};
  if (!lent.configuration.empty() && !base::parse_number<std::uint8_t>(lent.configuration)) {
    throw FormError("not a configuration's number");
  }
  for (const Json& entry : fields.array("drivers", kMostInterfaces)) {
    Fields driver(entry);
    std::string interface = read_interface(driver, lent.port);
    lent.drivers.emplace_back(std::move(interface), read_driver(driver, "driver"));
    driver.finish();
  }
  fields.finish();
  return lent;
}

/// Gives QEMU a USB device. libusb, in QEMU, takes the interfaces from their drivers itself, and
/// gives them back when QEMU ends in order; when it is killed, the kernel leaves them without one.
class LendUsb final : public Change {
 public:
  LendUsb(config::UsbRule rule, bool optional) : rule_(std::move(rule)), optional_(optional) {}

  const char* kind() const override { return "lend-usb"; }

  Step read(Fields& fields) const override {
    const config::UsbRule rule = read_as(fields, "rule", config::parse_usb_rule);
    return lend_usb(rule, fields.boolean("optional"));
  }
  void write(Json& json) const override {
    json["rule"] = to_string(rule_);
    json["optional"] = optional_;
  }

  std::string describe() const override {
    return "lend the guest the USB device " + to_string(rule_);
  }
  std::string describe_undo() const override { return "back to its drivers"; }
  std::string object() const override { return "the USB device " + to_string(rule_); }
  std::vector<std::string> reserves() const override {
    return {std::string(kUsbLock) + to_string(rule_)};
  }

  /// Asked again right before: minutes may have passed since the survey.
  void check(const Host& host) const override {
    const std::vector<survey::UsbDevice> devices = meant(host, rule_);
    if (devices.size() > 1 || (devices.empty() && !optional_)) {
      throw Failure(ExitCode::preflight,
                    "Cannot give the USB device " + to_string(rule_) + " to the guest: there " +
                        (devices.empty() ? "is none" : "are several") +
                        " now; type: vmlaunch host");
    }
    const survey::Uses uses = survey::look_at_uses(host.tree());
    for (const survey::UsbDevice& device : devices) {
      refuse_if_in_use(device, uses);
    }
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    check(host);
    Json devices = Json::array();
    for (const survey::UsbDevice& device : meant(host, rule_)) {
      devices.push_back(to_json(host, device));
    }
    return {{"devices", devices}};
  }

  void apply(Host& /*host*/,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {}

  /// Also of what was plugged in meanwhile: QEMU has taken whatever the rule means.
  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    std::vector<Lent> lent;
    for (const Json& device : fields.array("devices", kMostDevices)) {
      lent.push_back(read_lent(device));
    }
    const std::vector<survey::UsbDevice> devices = meant(host, rule_);
    Troubles troubles;
    for (const survey::UsbDevice& device : devices) {
      give_back(host, device, found_as(lent, device), troubles);
    }
    for (const survey::UsbDevice& device : devices) {
      if (const Lent* before = found_as(lent, device)) {
        look_for_troubles(host, device, *before, troubles);
      }
    }
    troubles.throw_if_any();
  }

 private:
  static void refuse_if_in_use(const survey::UsbDevice& device, const survey::Uses& uses) {
    const std::string what = "Cannot give the USB device " + device.name() + " to the guest: ";
    for (const survey::UsbInterface& interface : device.interfaces) {
      if (interface.driver == "usbfs") {
        throw Failure(ExitCode::device_busy,
                      what + "a program uses it; type: sudo fuser -v /dev/" + device.node());
      }
    }
    for (const survey::Use& use : uses.uses) {
      if (use.place.usb == device.name()) {
        throw Failure(ExitCode::preflight, what + use.what + "; " + use.advice);
      }
    }
  }

  /// Collected, so that one device does not keep another from being given back.
  struct Troubles {
    std::vector<std::string> failed;   ///< another try may help
    std::vector<std::string> changed;  ///< by somebody else
    bool denied = false;               ///< only root may write, which this run is not

    void throw_if_any() const {
      if (!failed.empty() && denied) {
        throw Lost(base::join(failed, "; "));
      }
      if (!failed.empty()) {
        throw Failure(ExitCode::host_not_restored, base::join(failed, "; "));
      }
      if (!changed.empty()) {
        throw ChangedMeanwhile(base::join(changed, "; "));
      }
    }
  };

  /// Nothing for what came after the look.
  static const Lent* found_as(const std::vector<Lent>& lent, const survey::UsbDevice& device) {
    const auto found = std::find_if(lent.begin(), lent.end(), [&](const Lent& one) {
      return one.port == device.port && one.ids == device.ids;
    });
    return found == lent.end() ? nullptr : &*found;
  }

  /// What says that it failed is no matter: where the device is then counts.
  static bool try_to_write(Host& host,
                           const std::string& path,
                           const std::string& value,
                           Troubles& troubles) {
    try {
      host.write_to_driver(path, value);
      return true;
    } catch (const std::system_error& error) {
      troubles.denied = troubles.denied || error.code().value() == EACCES;
      return false;
    }
  }

  /// A guest may choose another configuration, or none; the interfaces are others then.
  static bool is_configured_anew(const Host& host,
                                 const survey::UsbDevice& device,
                                 const Lent& before) {
    return !before.configuration.empty() && configuration_of(host, device) != before.configuration;
  }

  /// Those that had a driver; of what came after the look, all.
  static std::vector<std::string> interfaces_of(const survey::UsbDevice& device,
                                                const Lent* before) {
    std::vector<std::string> interfaces;
    if (before != nullptr) {
      for (const auto& [interface, driver] : before->drivers) {
        interfaces.push_back(interface);
      }
      return interfaces;
    }
    for (const survey::UsbInterface& interface : device.interfaces) {
      interfaces.push_back(interface.name);
    }
    return interfaces;
  }

  /// Somebody uses it as it is, the host or a program.
  static bool has_driver(const survey::UsbDevice& device) {
    return std::any_of(device.interfaces.begin(),
                       device.interfaces.end(),
                       [](const survey::UsbInterface& one) { return !one.driver.empty(); });
  }

  static std::string probe_by_hand(const std::string& interface) {
    return "; type: echo " + interface + " | sudo tee " + kProbe;
  }

  static void give_back(Host& host,
                        const survey::UsbDevice& device,
                        const Lent* before,
                        Troubles& troubles) {
    if (before != nullptr && is_configured_anew(host, device, *before)) {
      if (!has_driver(device)) {
        try_to_write(host, configuration_file(device), before->configuration, troubles);
      }
      if (is_configured_anew(host, device, *before)) {
        return;  // other interfaces than before are nobody's to probe
      }
    }
    for (const std::string& interface : interfaces_of(device, before)) {
      if (is_there(host, interface) && driver_of_interface(host, interface).empty() &&
          !try_to_write(host, kProbe, interface, troubles) && before == nullptr) {
        troubles.failed.push_back("the USB interface " + interface + " has no driver" +
                                  probe_by_hand(interface));
      }
    }
  }

  static void look_for_troubles(const Host& host,
                                const survey::UsbDevice& device,
                                const Lent& before,
                                Troubles& troubles) {
    if (!is_there(host, device.name())) {
      return;
    }
    if (is_configured_anew(host, device, before)) {
      (has_driver(device) ? troubles.changed : troubles.failed)
          .push_back("the USB device " + device.name() + " has another configuration; type: echo " +
                     before.configuration + " | sudo tee " + configuration_file(device));
      return;
    }
    for (const auto& [interface, driver] : before.drivers) {
      const std::string now = driver_of_interface(host, interface);
      if (now == driver || !is_there(host, interface)) {
        continue;
      }
      const std::string what =
          "the USB interface " + interface + " has " + named(now) + ", had " + named(driver);
      if (now.empty()) {
        troubles.failed.push_back(what + probe_by_hand(interface));
      } else {
        troubles.changed.push_back(what);
      }
    }
  }

  config::UsbRule rule_;
  bool optional_;  ///< it may come later
};

}  // namespace

Step lend_usb(config::UsbRule rule, bool optional) {
  return Step(std::make_shared<LendUsb>(std::move(rule), optional));
}

}  // namespace vmlaunch::launcher::steps
