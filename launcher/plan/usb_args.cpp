#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

constexpr unsigned kUsbPorts = 15;  // the most that QEMU gives a controller
static_assert(config::kMostUsbDevices < kUsbPorts);

/// What QEMU finds the device by.
Json match(const config::UsbRule& rule) {
  if (const auto* ids = std::get_if<config::UsbIds>(&rule)) {
    return {{"vendorid", ids->vendor}, {"productid", ids->product}};
  }
  if (const auto* port = std::get_if<config::UsbPort>(&rule)) {
    return {{"hostbus", port->bus}, {"hostport", path_of(*port)}};
  }
  const auto& address = std::get<config::UsbAddress>(rule);
  return {{"hostbus", address.bus}, {"hostaddr", address.device}};
}

/// A device that the viewer's machine has.
void redirect(Arguments& args, const std::string& id) {
  args.add("-chardev", "spicevmc,name=usbredir,id=" + id);
  args.add_json(
      "-device",
      Json{{"driver", "usb-redir"}, {"id", id + "-device"}, {"bus", "usb.0"}, {"chardev", id}});
}

}  // namespace

/// The library looks for devices in a real /sys alone, where they are links into the folders of
/// all others, asks udev's records, and hears of changes by the network's sockets.
void share_usb(Arguments& args) {
  args.need_calls("usb");
  share_devices(args);
  args.share("/run/udev");
  args.need_network();
}

/// QEMU looks for what is missing every two seconds, and takes it when it is there.
void add_usb(Arguments& args) {
  const auto& entries = args.spec.usb;
  const bool hosts = !entries.empty() || args.spec.hotplug.contains(config::Hotplug::usb);
  const config::Display& display = args.spec.display;
  if (!hosts && !display.is_shown()) {
    return;
  }
  Json controller = args.device("qemu-xhci", "usb", kUsbSlot);
  if (hosts) {
    share_usb(args);
  }
  if (hosts || display.redirected > 0) {
    controller["p2"] = kUsbPorts;
    controller["p3"] = kUsbPorts;
  }
  args.add_json("-device", controller);
  if (display.is_shown()) {
    args.add_json("-device", Json{{"driver", "usb-tablet"}, {"id", "tablet"}, {"bus", "usb.0"}});
  }
  for (std::size_t i = 0; i < entries.size(); ++i) {
    Json host = {{"driver", "usb-host"}, {"id", "usb-host" + std::to_string(i)}, {"bus", "usb.0"}};
    host.update(match(entries[i].device));
    args.add_json("-device", host);
  }
  for (unsigned i = 0; i < display.redirected; ++i) {
    redirect(args, "redirected" + std::to_string(i));
  }
}

}  // namespace vmlaunch::launcher::plan
