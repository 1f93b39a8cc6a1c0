#include <array>
#include <chrono>
#include <ctime>
#include <memory>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/steps/device_change.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using std::chrono::steady_clock;

constexpr std::size_t kBusLength = 7;  // "0000:01"

/// Of what a function forgets when it is removed, what people and drivers set for passing it
/// through (Documentation/ABI/testing/sysfs-bus-pci).
constexpr std::array kSettings = {"driver_override", "power/control", "d3cold_allowed"};

std::string ids_of(const Host& host, const base::PciAddress& device) {
  const std::string folder = device_folder(device);
  return host.tree().read(folder + "/vendor").value_or("") + " " +
         host.tree().read(folder + "/device").value_or("");
}

Json look_at(const Host& host, const base::PciAddress& device) {
  Json settings = Json::object();
  for (const char* name : kSettings) {
    const std::string path = device_folder(device) + "/" + name;
    if (host.tree().exists(path)) {
      const std::string value = host.read_locked(path);
      settings[name] = value == "(null)" ? "" : wire_text(value);
    }
  }
  return {{"device", base::to_string(device)},
          {"ids", wire_text(ids_of(host, device))},
          {"driver", wire_text(driver_of(host, device))},
          {"settings", settings}};
}

/// A function as it was found, read back from a record.
struct Function {
  base::PciAddress device;
  std::string ids;
  std::string driver;
  std::vector<std::pair<std::string, std::string>> settings;
};

Function read_function(const Json& json) {
  Fields fields(json);
  Function function{
      read_address(fields, "device"), fields.text("ids"), read_driver(fields, "driver"), {}};
  Fields settings(fields.any("settings"));
  for (const char* name : kSettings) {
    if (settings.object().contains(name)) {
      function.settings.emplace_back(name, settings.text(name));
    }
  }
  settings.finish();
  fields.finish();
  return function;
}

/// Removes a card and finds it anew: the kernel gives it other memory windows then, which helps
/// where the firmware's overlap. A driver that takes it at once cannot be kept off
/// (pci_bus_add_device() asks all of them, whatever drivers_autoprobe says), so this comes before
/// the card is bound to vfio-pci. Its settings and its drivers are as before.
class RescanCard final : public Change {
 public:
  explicit RescanCard(std::vector<base::PciAddress> functions) : functions_(std::move(functions)) {}

  const char* kind() const override { return "rescan-card"; }

  Step read(Fields& fields) const override {
    std::vector<base::PciAddress> functions;
    for (const std::string& text : fields.texts("functions")) {
      const auto address = base::parse_pci_address(text);
      base::PciAddress slot = address.value_or(base::PciAddress{});
      slot.function = functions.empty() ? slot.function : functions.front().function;
      if (!address || (!functions.empty() && slot != functions.front())) {
        throw FormError("not the functions of a card");
      }
      functions.push_back(*address);
    }
    if (functions.empty()) {
      throw FormError("a card without functions");
    }
    return rescan_card(std::move(functions));
  }

  void write(Json& json) const override {
    json["functions"] = Json::array();
    for (const base::PciAddress& function : functions_) {
      json["functions"].push_back(base::to_string(function));
    }
  }

  std::string describe() const override {
    std::vector<std::string> names;
    names.reserve(functions_.size());
    for (const base::PciAddress& function : functions_) {
      names.push_back(base::to_string(function));
    }
    return "remove " + base::join(names, ", ") + " and find them anew, with their drivers";
  }
  std::string describe_undo() const override { return "found anew, if any is missing"; }
  std::string object() const override { return base::to_string(functions_.front()); }
  std::vector<std::string> reserves() const override { return {object()}; }

  void check(const Host& host) const override {
    for (const base::PciAddress& function : functions_) {
      require_device(host, function);
    }
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    check(host);
    Json functions = Json::array();
    for (const base::PciAddress& function : functions_) {
      functions.push_back(look_at(host, function));
    }
    return {{"functions", functions}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& note) const override {
    for (const base::PciAddress& function : functions_) {
      if (const std::vector<Holder> holders = host.holders(function); !holders.empty()) {
        refuse_held(function, holders);
      }
    }
    for (auto function = functions_.rbegin(); function != functions_.rend(); ++function) {
      host.write_to_driver(device_folder(*function) + "/remove", "1");
    }
    try {
      bring_back(host, read_functions(found));
    } catch (const ChangedMeanwhile& error) {
      throw Failure(ExitCode::failed, "Cannot " + describe() + ": " + error.what());
    }
    note({{"found_anew", true}});
  }

  /// What is there again was put back by apply, and is others' since then.
  void undo(Host& host, const Json& found) const override {
    std::vector<Function> functions = read_functions(found);
    if (found.contains("found_anew")) {
      std::erase_if(functions, [&](const Function& function) {
        return host.tree().exists(device_folder(function.device));
      });
    }
    bring_back(host, functions);
  }

 private:
  static std::vector<Function> read_functions(const Json& found) {
    Fields fields(found);
    std::vector<Function> functions;
    for (const Json& json : fields.array("functions", 8)) {
      functions.push_back(read_function(json));
    }
    return functions;
  }

  /// The functions as they were found.
  void bring_back(Host& host, const std::vector<Function>& functions) const {
    if (!is_there(host)) {
      // That of the bus, which also gives its bridge another window where that is too small
      // (drivers/pci/pci-sysfs.c).
      const std::string bus = base::to_string(functions_.front()).substr(0, kBusLength);
      host.write_to_driver("/sys/class/pci_bus/" + bus + "/rescan", "1");
      await(host);
    }
    for (const Function& function : functions) {
      restore(host, function);
    }
    for (const Function& function : functions) {
      require_same(host, function);
    }
  }

  [[nodiscard]] bool is_there(const Host& host) const {
    for (const base::PciAddress& function : functions_) {
      if (!host.tree().exists(device_folder(function))) {
        return false;
      }
    }
    return true;
  }

  void await(const Host& host) const {
    const auto end = steady_clock::now() + host.deadlines().rescan;
    while (!is_there(host) && steady_clock::now() < end) {
      const timespec pause{0, 10'000'000};
      ::nanosleep(&pause, nullptr);
    }
  }

  static void restore(Host& host, const Function& function) {
    const std::string folder = device_folder(function.device) + "/";
    if (!host.tree().exists(folder)) {
      return;  // named at the end, when all else is done
    }
    for (const auto& [name, before] : function.settings) {
      const std::string now = host.read_locked(folder + name);
      if (now != before && !(before.empty() && now == "(null)")) {
        host.write(folder + name, before);
      }
    }
    const std::string now = driver_of(host, function.device);
    if (now == function.driver) {
      return;
    }
    if (!now.empty()) {
      unbind(host, function.device);
    }
    if (!function.driver.empty()) {
      probe_driver(host, function.device, function.driver);
    }
  }

  static void require_same(const Host& host, const Function& function) {
    require_still_there(host, function.device);
    if (ids_of(host, function.device) != function.ids) {
      throw ChangedMeanwhile("the PCI device " + base::to_string(function.device) +
                             " is another one since its card was found anew; type: vmlaunch host");
    }
  }

  std::vector<base::PciAddress> functions_;
};

}  // namespace

Step rescan_card(std::vector<base::PciAddress> functions) {
  return Step(std::make_shared<RescanCard>(std::move(functions)));
}

}  // namespace vmlaunch::launcher::steps
