#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::VmSpec;

void view(Arguments& args, const base::PciAddress& address, Json& card) {
  const auto found = args.plan.passthrough.views.find(address);
  if (found == args.plan.passthrough.views.end()) {
    return;
  }
  const VmSpec::PciView& view = found->second;
  if (view.rom) {
    card["romfile"] = args.reopened("ROM of " + base::to_string(address), *view.rom);
  }
  if (!view.rombar) {
    card["rombar"] = 0;
  }
  if (view.x_vga) {
    card["x-vga"] = true;
  }
}

}  // namespace

/// Each card on a root port of its own, as on a real board: guests may power it down and up, and
/// the kernel can ask for it back.
void add_pci_devices(Arguments& args) {
  const auto& slots = args.plan.passthrough.slots;
  if (!slots.empty()) {
    args.need_calls("vfio");
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::string port = "port" + std::to_string(i);
    args.add_json(
        "-device",
        args.root_port(port, kFirstPortSlot + i / kPortsPerSlot, i % kPortsPerSlot, i + 1));
    for (std::size_t k = 0; k < slots[i].size(); ++k) {
      Json card = {{"driver", "vfio-pci"},
                   {"id", "pci" + std::to_string(i) + "." + std::to_string(k)},
                   {"host", base::to_string(slots[i][k])},
                   {"bus", port},
                   {"addr", "0x0.0x" + std::to_string(k)}};
      args.share("/sys/bus/pci/devices/" + base::to_string(slots[i][k]));
      if (slots[i].size() > 1) {
        card["multifunction"] = true;
      }
      view(args, slots[i][k], card);
      args.add_json("-device", card);
    }
  }
}

}  // namespace vmlaunch::launcher::plan
