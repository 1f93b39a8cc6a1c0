#include <set>
#include <utility>

#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

/// What is only kept from everybody is nothing to the guest.
void take(const Config::Pci& given,
          const std::string& pointer,
          VmSpec::Pci& device,
          Review& review) {
  device.driver = given.driver.value_or(PciTaker::vfio);
  device.rescan = given.rescan.value_or(false);
  device.on_no_reset = given.on_no_reset.value_or(OnNoReset());
  if (device.driver == PciTaker::vfio) {
    return;
  }
  for (const auto& [key, is_given] : {std::pair("/rom", given.rom.has_value()),
                                      std::pair("/rombar", given.rombar.has_value()),
                                      std::pair("/x_vga", given.x_vga.has_value()),
                                      std::pair("/rescan", given.rescan.has_value()),
                                      std::pair("/on_no_reset", given.on_no_reset.has_value())}) {
    if (is_given) {
      review.report(pointer + key,
                    "given for a device that \"driver\": \"pci-stub\" keeps from the guest");
    }
  }
}

VmSpec::PciView pci_view(const Config::Pci& given, const std::string& pointer, Review& review) {
  VmSpec::PciView view{{}, given.rombar.value_or(true), given.x_vga.value_or(false)};
  if (given.rom) {
    view.rom = review.path(pointer + "/rom", *given.rom);
    if (!view.rombar) {
      review.report(pointer + "/rom", "the guest sees no ROM with \"rombar\": false");
    }
  }
  return view;
}

}  // namespace

void check_pci(const Config& config, VmSpec& spec, Review& review) {
  if (config.pci.size() > kMostPciDevices) {
    review.report("/pci",
                  "at most " + std::to_string(kMostPciDevices) + " PCI devices are possible");
  }
  if (!config.pci.empty() && spec.machine != Machine::q35) {
    review.report("/pci", "PCI devices need \"machine\": \"q35\", which has PCI Express");
  }
  std::set<std::vector<PciSelector>> seen;
  for (std::size_t i = 0; i < config.pci.size(); ++i) {
    const Config::Pci& given = config.pci[i];
    const std::string pointer = child("/pci", i);
    VmSpec::Pci device;
    device.all_functions = given.functions == PciScope::all;
    device.whole_group = given.group == PciScope::all;
    device.expect = given.expect;
    device.device = given.device;
    device.view = pci_view(given, pointer, review);
    device.release_timeout = given.release_timeout.value_or(device.release_timeout);
    take(given, pointer, device, review);
    if (given.device.empty()) {
      review.report(pointer + "/device", "missing: the address, as vmlaunch host shows it");
    } else if (!seen.insert(given.device).second) {
      review.report(pointer + "/device", "this device is listed twice");
    }
    spec.pci.push_back(device);
  }
}

/// Of all cards in a machine one answers at VGA's old addresses.
void check_video(const Config& config, VmSpec& spec, Review& review) {
  spec.video = config.video.value_or(spec.display.is_shown() ? Video::vga : Video::none);
  bool taken = false;
  for (std::size_t i = 0; i < spec.pci.size(); ++i) {
    if (!spec.pci[i].view.x_vga) {
      continue;
    }
    const std::string pointer = child("/pci", i) + "/x_vga";
    if (spec.video != Video::none) {
      review.report_without(
          "/video",
          pointer,
          "VGA's addresses are the emulated card's; give the guest none: \"video\": "
          "\"none\"");
    }
    if (taken) {
      review.report(pointer, "VGA's addresses are another device's already");
    }
    taken = true;
  }
}

void check_single_gpu(const Config& config, VmSpec& spec, Review& review) {
  spec.single_gpu = config.single_gpu.value_or(false);
  if (spec.single_gpu && config.pci.empty()) {
    review.report_without("/pci", "/single_gpu", "given without the GPU in \"pci\"");
  }
}

}  // namespace vmlaunch::launcher::config
