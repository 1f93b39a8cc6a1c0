#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::Hotplug;

constexpr std::size_t kPorts = 4;
static_assert(kPorts <= kPortsPerSlot);

/// q35's root bus takes nothing while the machine runs; that of the older machine does.
void add_ports(Arguments& args) {
  for (std::size_t i = 0; i < kPorts; ++i) {
    args.add_json(
        "-device",
        args.root_port(
            "hotplug" + std::to_string(i), kHotplugSlot, i, config::kMostPciDevices + 1 + i));
  }
}

}  // namespace

void add_hotplug(Arguments& args) {
  const auto& kinds = args.spec.hotplug;
  args.plan.qemu.hotplug = kinds;
  if (kinds.contains(Hotplug::disk)) {
    args.need_calls("block-device");
    args.need_calls("disk-native");
  }
  if (kinds.contains(Hotplug::net)) {
    args.need_calls("tap");
    args.need_calls("vhost-net");
  }
  if (kinds.contains(Hotplug::pci)) {
    args.need_calls("vfio");
    share_devices(args);
  }
  const bool needs_ports = kinds.size() > kinds.count(Hotplug::usb);
  if (needs_ports && args.spec.machine == config::Machine::q35) {
    add_ports(args);
  }
}

}  // namespace vmlaunch::launcher::plan
