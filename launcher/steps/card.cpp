#include "launcher/steps/card.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <utility>

#include "base/text.hpp"
#include "launcher/steps/pci_paths.hpp"

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

std::vector<Function> read_functions(const Json& found) {
  std::vector<Function> functions;
  for (const Json& json : found) {
    functions.push_back(read_function(json));
  }
  return functions;
}

void restore(Host& host, const Function& function) {
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

void require_same(const Host& host, const Function& function) {
  require_still_there(host, function.device);
  if (ids_of(host, function.device) != function.ids) {
    throw ChangedMeanwhile("the PCI device " + base::to_string(function.device) +
                           " is another one since its card was found anew; type: vmlaunch host");
  }
}

}  // namespace

Json Card::look(const Host& host) const {
  Json functions = Json::array();
  for (const base::PciAddress& function : functions_) {
    functions.push_back(look_at(host, function));
  }
  return functions;
}

bool Card::is_there(const Host& host) const {
  return std::all_of(functions_.begin(), functions_.end(), [&](const base::PciAddress& function) {
    return host.tree().exists(device_folder(function));
  });
}

void Card::remove(Host& host) const {
  for (auto function = functions_.rbegin(); function != functions_.rend(); ++function) {
    host.write_to_driver(device_folder(*function) + "/remove", "1");
  }
}

void Card::find(Host& host) const {
  // That of the bus, which also gives its bridge another window where that is too small
  // (drivers/pci/pci-sysfs.c).
  const std::string bus = base::to_string(functions_.front()).substr(0, kBusLength);
  host.write_to_driver("/sys/class/pci_bus/" + bus + "/rescan", "1");
  const auto end = steady_clock::now() + host.deadlines().rescan;
  while (!is_there(host) && steady_clock::now() < end) {
    const timespec pause{0, 10'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

void Card::bring_back(Host& host, const Json& found, const std::set<base::PciAddress>& left) const {
  std::vector<Function> functions = read_functions(found);
  std::erase_if(functions,
                [&](const Function& function) { return left.contains(function.device); });
  if (!is_there(host)) {
    find(host);
  }
  for (const Function& function : functions) {
    restore(host, function);
  }
  for (const Function& function : functions) {
    require_same(host, function);
  }
}

}  // namespace vmlaunch::launcher::steps
