// The example of a Windows desktop, with what this host has in the place of what it names.

#include <filesystem>

#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/golden.hpp"

using namespace vmlaunch::tests;

namespace {

/// "/dev/nvme0n1": the disk of an NVMe controller.
std::string disk_of(const std::string& controller) {
  const std::filesystem::path all = "/sys/bus/pci/devices/" + controller + "/nvme";
  for (const auto& one : std::filesystem::directory_iterator(all)) {
    return "/dev/" + one.path().filename().string() + "n1";
  }
  return "";
}

/// A Linux that the firmware can start stands in for Windows, and says what it sees.
Json win10_config(const Folder& folder) {
  Json config = Json::parse(read_source("configs/win10.json"), nullptr, true, true);
  config.erase("$schema");
  // In software: UEFI writes CR8, at which the QEMU outside fails if a nested guest does.
  config["accel"] = "tcg";
  config["cpu"]["cores"] = 1;
  config["cpu"]["threads"] = 1;
  config["memory"]["size"] = "1G";
  config["pci"][0]["device"] = device::gpu;
  config["pci"][0]["expect"] = "1234:1111";
  config["disks"][0]["path"] = disk_of(device::nvme);
  for (const char* iso : {"windows.iso", "virtio-win.iso"}) {
    folder.write(iso, std::string(1 << 20, '\0'));
  }
  config["kernel"] = GUEST_DIR "/vmlinuz";
  config["initrd"] = GUEST_DIR "/demo.cpio.gz";
  config["append"] = "console=ttyS0 quiet panic=-1";
  config["serial"] = "stdio";
  return config;
}

}  // namespace

TEST_CASE("win10: the firmware comes up with the card in the guest, and everything returns",
          "[intel][full]") {
  const Folder folder;
  Program program(run_of(folder, win10_config(folder), "win10.json"));
  const int code = program.exit_code(Seconds(220));
  INFO(program.output());
  CHECK(code == 0);
  CHECK(said(program, "\x1b[2J\x1b[01;01H"));  // UEFI's console
  CHECK(said(program, " 1234:1111 class 0380"));
  CHECK(said(program, " class 0403"));
  CHECK(said(program, "host restored"));
  CHECK(driver_of(device::gpu) == "bochs-drm");
  CHECK(driver_of(device::gpu_audio) == "snd_hda_intel");
}
