#include <set>

#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

/// A device is named in one way.
void check_ways(const Config::Usb& given, const std::string& pointer, Review& review) {
  if (given.ways.empty()) {
    review.report(pointer, "it names no device: give \"device\", \"port\" or \"address\"");
  }
  for (std::size_t i = 1; i < given.ways.size(); ++i) {
    review.report(child(pointer, given.ways[i]),
                  std::string("a device is named in one way, and this one is by \"") +
                      given.ways.front() + "\" already");
  }
}

}  // namespace

void check_usb(const Config& config, VmSpec& spec, Review& review) {
  const std::size_t redirected = config.display.value_or(Display{}).redirected;
  if (config.usb.size() + redirected > kMostUsbDevices) {
    review.report("/usb",
                  "at most " + std::to_string(kMostUsbDevices) +
                      " USB devices are possible, with those that are redirected");
  }
  std::set<UsbRule> seen;
  for (std::size_t i = 0; i < config.usb.size(); ++i) {
    const Config::Usb& given = config.usb[i];
    const std::string pointer = child("/usb", i);
    check_ways(given, pointer, review);
    if (!given.device) {
      continue;
    }
    const VmSpec::Usb device{*given.device, given.optional.value_or(false)};
    if (!seen.insert(device.device).second) {
      review.report(pointer, "this device is listed twice");
    }
    if (device.optional && std::holds_alternative<UsbAddress>(device.device)) {
      review.report(pointer + "/optional",
                    "what comes later has another address then: name it by \"device\" or \"port\"");
    }
    spec.usb.push_back(device);
  }
}

}  // namespace vmlaunch::launcher::config
