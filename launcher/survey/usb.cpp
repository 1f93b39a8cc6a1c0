#include "launcher/survey/usb.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <iterator>
#include <string_view>
#include <utility>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// Where sysfs has it; nothing if it is gone, or is no device's folder.
std::optional<std::string> folder_of(Reader& reader, const std::string& name) {
  std::optional<std::string> real = reader.tree().resolve(kUsbDevices + name);
  if (real && (!real->starts_with("/sys/devices/") || !real->ends_with("/" + name))) {
    reader.doubt(kUsbDevices + name, *real);
    return std::nullopt;
  }
  return real;
}

/// Hexadecimal in full width, as the kernel writes classes and ids.
template <typename Unsigned>
std::optional<Unsigned> hex_number(Reader& reader, const std::string& path) {
  return reader.parse(path, [](const std::string& text) {
    return text.size() == 2 * sizeof(Unsigned) ? base::parse_number<Unsigned>(text, 16)
                                               : std::nullopt;
  });
}

std::uint8_t class_part(Reader& reader, const std::string& path) {
  return hex_number<std::uint8_t>(reader, path).value_or(0);
}

/// "1.5", "480", or the kernel's "unknown".
std::string speed_of(Reader& reader, const std::string& folder) {
  const auto parse = [](const std::string& text) -> std::optional<std::string> {
    if (text == "unknown") {
      return "";
    }
    const bool is_number =
        !text.empty() && text.find_first_not_of("0123456789.") == std::string::npos;
    return is_number ? std::optional(text) : std::nullopt;
  };
  return reader.parse(folder + "/speed", parse).value_or("");
}

std::optional<unsigned> small_number(Reader& reader, const std::string& path) {
  return reader.parse(path, [](const std::string& text) {
    const auto number = base::parse_number<std::uint8_t>(text);
    return number ? std::optional<unsigned>(*number) : std::nullopt;
  });
}

UsbInterface look_at_interface(Reader& reader, const std::string& folder, const std::string& name) {
  UsbInterface interface {
    name, 0, {}
  };
  const std::string own = folder + "/" + name;
  for (const char* part : {"/bInterfaceClass", "/bInterfaceSubClass", "/bInterfaceProtocol"}) {
    interface.class_code = interface.class_code << 8U | class_part(reader, own + part);
  }
  interface.driver = reader.tree().link_name(own + "/driver").value_or("");
  return interface;
}

std::optional<UsbDevice> look_at_device(Reader& reader,
                                        const config::UsbPort& port,
                                        UsbNames names) {
  UsbDevice device;
  device.port = port;
  const std::string name = device.name();
  const std::optional<std::string> folder = folder_of(reader, name);
  if (!folder) {
    return std::nullopt;
  }
  const auto vendor = hex_number<std::uint16_t>(reader, *folder + "/idVendor");
  const auto product = hex_number<std::uint16_t>(reader, *folder + "/idProduct");
  const auto number = small_number(reader, *folder + "/devnum");
  if (!vendor || !product || !number) {
    return std::nullopt;
  }
  device.number = *number;
  device.ids = {*vendor, *product};
  device.speed = speed_of(reader, *folder);
  device.device_class = class_part(reader, *folder + "/bDeviceClass");
  if (names == UsbNames::read) {
    device.manufacturer = reader.text(*folder + "/manufacturer").value_or("");
    device.product = reader.text(*folder + "/product").value_or("");
  }
  for (const std::string& entry : reader.tree().list(*folder)) {
    if (entry.starts_with(name + ":")) {
      device.interfaces.push_back(look_at_interface(reader, *folder, entry));
    }
  }
  return device;
}

std::optional<UsbBus> look_at_bus(Reader& reader, unsigned number) {
  const std::optional<std::string> folder = folder_of(reader, "usb" + std::to_string(number));
  if (!folder) {
    return std::nullopt;
  }
  UsbBus bus{number, {}, speed_of(reader, *folder), 0, {}};
  const std::vector<std::string> parts = base::split(*folder, '/');
  bus.controller = base::parse_pci_address(parts[parts.size() - 2]);
  bus.ports = small_number(reader, *folder + "/maxchild").value_or(0);
  return bus;
}

}  // namespace

bool UsbDevice::is_hub() const {
  constexpr std::uint8_t kHub = 0x09;
  return device_class == kHub ||
         std::any_of(interfaces.begin(), interfaces.end(), [](const UsbInterface& interface) {
           return interface.class_code >> 16U == kHub;
         });
}

std::string UsbDevice::node() const {
  std::array<char, 32> name{};
  static_cast<void>(std::snprintf(name.data(), name.size(), "bus/usb/%03u/%03u", port.bus, number));
  return name.data();
}

bool matches(const config::UsbRule& rule, const UsbDevice& device) {
  if (const auto* ids = std::get_if<config::UsbIds>(&rule)) {
    return *ids == device.ids;
  }
  if (const auto* port = std::get_if<config::UsbPort>(&rule)) {
    return *port == device.port;
  }
  return std::get<config::UsbAddress>(rule) == config::UsbAddress{device.port.bus, device.number};
}

std::vector<UsbDevice> Usb::find(const config::UsbRule& rule) const {
  std::vector<UsbDevice> found;
  for (const UsbBus& bus : buses) {
    std::copy_if(bus.devices.begin(),
                 bus.devices.end(),
                 std::back_inserter(found),
                 [&](const UsbDevice& device) { return matches(rule, device); });
  }
  return found;
}

Usb look_at_usb(Reader& reader, UsbNames names) {
  constexpr std::string_view kBus = "usb";
  Usb usb;
  std::vector<config::UsbPort> ports;
  static_cast<void>(reader.has("/sys/bus/usb/devices"));  // tells it where it is hidden
  for (const std::string& name : reader.tree().list("/sys/bus/usb/devices")) {
    const auto number = name.starts_with(kBus)
                            ? base::parse_number<std::uint8_t>(name.substr(kBus.size()))
                            : std::nullopt;
    const auto port = config::parse_usb_port(name);
    if (auto bus = number ? look_at_bus(reader, *number) : std::nullopt) {
      usb.buses.push_back(std::move(*bus));
    } else if (port) {
      ports.push_back(*port);
    }
  }
  std::sort(usb.buses.begin(), usb.buses.end(), [](const UsbBus& one, const UsbBus& other) {
    return one.number < other.number;
  });
  std::sort(ports.begin(), ports.end());
  for (const config::UsbPort& port : ports) {
    const auto bus = std::find_if(usb.buses.begin(), usb.buses.end(), [&](const UsbBus& one) {
      return one.number == port.bus;
    });
    const auto device = bus == usb.buses.end() ? std::nullopt : look_at_device(reader, port, names);
    if (device) {
      bus->devices.push_back(*device);
    }
  }
  return usb;
}

}  // namespace vmlaunch::launcher::survey
