#include "tests/support/usb_tree.hpp"

#include <array>
#include <cstdio>
#include <filesystem>
#include <stdexcept>

#include "base/text.hpp"
#include "launcher/config/usb_rule.hpp"

namespace vmlaunch::tests {

namespace {

constexpr const char* kDevices = "/sys/bus/usb/devices/";

std::string node_of(unsigned bus, unsigned number) {
  std::array<char, 32> name{};
  static_cast<void>(std::snprintf(name.data(), name.size(), "/dev/bus/usb/%03u/%03u", bus, number));
  return name.data();
}

void add_folder(const PciTree& tree, const std::string& name, const std::string& folder) {
  tree.folder(folder);
  tree.link(kDevices + name, "../../../.." + folder);
}

void write_ids(const PciTree& tree, const std::string& folder, const std::string& ids) {
  tree.write(folder + "/idVendor", ids.substr(0, 4) + "\n");
  tree.write(folder + "/idProduct", ids.substr(5) + "\n");
}

/// Byte `place` of a class, from the left of three.
std::string class_byte(std::uint32_t code, unsigned place) {
  return base::hex(code >> (16U - 8U * place), 2) + "\n";
}

}  // namespace

std::string usb_folder(const PciTree& tree, const std::string& name) {
  const auto real = tree.tree().resolve(kDevices + name);
  if (!real) {
    throw std::logic_error(name + " was not added");
  }
  return *real;
}

void add_usb_bus(const PciTree& tree, unsigned number, const std::string& controller) {
  const std::string name = "usb" + std::to_string(number);
  const std::string above =
      controller.empty() ? "/sys/devices/platform/xhci-hcd.0" : tree.device(controller);
  const std::string folder = above + "/" + name;
  add_folder(tree, name, folder);
  write_ids(tree, folder, "1d6b:0002");
  tree.write(folder + "/bDeviceClass", "09\n");
  tree.write(folder + "/busnum", std::to_string(number) + "\n");
  tree.write(folder + "/devnum", "1\n");
  tree.write(folder + "/maxchild", "4\n");
  tree.write(folder + "/speed", "480\n");
}

void add_usb_device(const PciTree& tree, const UsbParts& parts) {
  const auto port = launcher::config::parse_usb_port(parts.port).value();
  const std::size_t dot = parts.port.rfind('.');
  const std::string above =
      dot == std::string::npos ? "usb" + std::to_string(port.bus) : parts.port.substr(0, dot);
  const std::string folder = usb_folder(tree, above) + "/" + parts.port;
  add_folder(tree, parts.port, folder);
  write_ids(tree, folder, parts.ids);
  tree.write(folder + "/devnum", std::to_string(parts.number) + "\n");
  tree.write(folder + "/speed", parts.speed + "\n");
  tree.write(folder + "/bDeviceClass", base::hex(parts.device_class, 2) + "\n");
  tree.write(folder + "/bConfigurationValue", "1\n");
  if (!parts.product.empty()) {
    tree.write(folder + "/product", parts.product + "\n");
  }
  tree.write(node_of(port.bus, parts.number), "");
  const std::string interface = parts.port + ":1.0";
  add_folder(tree, interface, folder + "/" + interface);
  const std::string own = folder + "/" + interface;
  tree.write(own + "/bInterfaceClass", class_byte(parts.interface_class, 0));
  tree.write(own + "/bInterfaceSubClass", class_byte(parts.interface_class, 1));
  tree.write(own + "/bInterfaceProtocol", class_byte(parts.interface_class, 2));
  bind_usb(tree, interface, parts.driver);
}

void remove_usb_device(const PciTree& tree, const std::string& port) {
  tree.remove(usb_folder(tree, port));
  for (const std::string& name : tree.tree().list(kDevices)) {
    if (!tree.tree().exists(kDevices + name)) {
      tree.remove(kDevices + name);
    }
  }
}

void bind_usb(const PciTree& tree, const std::string& interface, const std::string& driver) {
  const std::string link = usb_folder(tree, interface) + "/driver";
  tree.remove(link);
  if (!driver.empty()) {
    const std::filesystem::path target = "/sys/bus/usb/drivers/" + driver;
    tree.folder(target);
    tree.link(link, target.lexically_relative(std::filesystem::path(link).parent_path()));
  }
}

}  // namespace vmlaunch::tests
