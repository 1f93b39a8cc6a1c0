#include <array>
#include <string_view>
#include <utility>

#include "base/text.hpp"
#include "launcher/survey/print_parts.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// Those that a person may look for (www.usb.org/defined-class-codes); others are numbers.
constexpr std::array<std::pair<std::uint8_t, std::string_view>, 10> kClasses = {{
    {0x01, "audio"},
    {0x02, "communication"},
    {0x03, "input"},
    {0x06, "camera"},
    {0x07, "printer"},
    {0x08, "storage"},
    {0x09, "hub"},
    {0x0b, "smart card"},
    {0x0e, "video"},
    {0xe0, "wireless"},
}};

std::string describe(const UsbInterface& interface) {
  const auto number = static_cast<std::uint8_t>(interface.class_code >> 16U);
  std::string text = "class " + base::hex(number, 2);
  for (const auto& [known, name] : kClasses) {
    if (known == number) {
      text = name;
    }
  }
  return text + (interface.driver.empty() ? " without a driver" : " by " + interface.driver);
}

std::string describe(const UsbDevice& device) {
  std::string text = device.name() + " [" + to_string(device.ids) + "]";
  for (const std::string& words : {device.manufacturer, device.product}) {
    text += words.empty() ? "" : " " + survey::quoted(words);
  }
  text += ", number " + std::to_string(device.number);
  text += device.speed.empty() ? "" : ", " + device.speed + " Mbit/s";
  for (const UsbInterface& interface : device.interfaces) {
    text.append(", ").append(describe(interface));
  }
  return text;
}

std::string describe(const UsbBus& bus) {
  std::string text = "USB bus " + std::to_string(bus.number);
  text += bus.controller ? " of " + base::to_string(*bus.controller) : "";
  text += bus.speed.empty() ? "" : ", " + bus.speed + " Mbit/s";
  return text + ", " + std::to_string(bus.ports) + (bus.ports == 1 ? " port" : " ports");
}

}  // namespace

void add_usb(std::string& text, const Usb& usb) {
  for (const UsbBus& bus : usb.buses) {
    text.append("\n").append(base::printable(describe(bus))).append("\n");
    for (const UsbDevice& device : bus.devices) {
      text.append("  ").append(base::printable(describe(device))).append("\n");
    }
  }
}

}  // namespace vmlaunch::launcher::survey
