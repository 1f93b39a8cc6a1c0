#include "tests/lab/machine.hpp"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

using namespace vmlaunch::tests;

namespace {

using Addresses = std::vector<std::string>;

/// Gives a device to `driver`, or to its own if that is empty.
void give(const std::string& address, const std::string& driver) {
  const std::string folder = "/sys/bus/pci/devices/" + address;
  std::ofstream(folder + "/driver_override") << driver << '\n';
  std::ofstream(folder + "/driver/unbind") << address;
  std::ofstream("/sys/bus/pci/drivers_probe") << address;
}

}  // namespace

TEST_CASE("machine: its devices and their drivers are those of the table",
          "[intel][intel-6.12][amd][none][systemd][each]") {
  std::vector<std::array<std::string, 4>> table = {
      {device::boot_gpu, "0x1234", "0x030000", "bochs-drm"},
      {device::gpu, "0x1234", "0x038000", "bochs-drm"},
      {device::gpu_audio, "0x8086", "0x040300", "snd_hda_intel"},
      {device::second_gpu, "0x1234", "0x038000", "bochs-drm"},
      {device::second_gpu_audio, "0x8086", "0x040300", "snd_hda_intel"},
      {device::nic, "0x8086", "0x020000", "e1000e"},
      {device::usb, "0x1b36", "0x0c0330", "xhci_hcd"},
      {device::nvme, "0x1b36", "0x010802", "nvme"},
      {device::second_nvme, "0x1b36", "0x010802", "nvme"},
      {device::no_reset, "0x1234", "0x00ff00", ""},
      {device::sata, "0x8086", "0x010601", "ahci"},
      {device::smbus, "0x8086", "0x0c0500", "i801_smbus"},
      {device::gpu_port, "0x1b36", "0x060400", "pcieport"},
      {device::empty_port, "0x1b36", "0x060400", "pcieport"}};
  if (machine_name() == "amd") {
    table.push_back({device::root_nic, "0x8086", "0x020000", "e1000e"});
  }
  for (const auto& [address, vendor, kind, driver] : table) {
    INFO(address);
    CHECK(attribute(address, "vendor") == vendor);
    CHECK(attribute(address, "class") == kind);
    CHECK(driver_of(address) == driver);
  }
  CHECK(attribute(device::boot_gpu, "boot_vga") == "1");
  CHECK(attribute(device::nic, "reset_method") == "pm bus");
  CHECK(attribute(device::nvme, "reset_method") == "flr");
  CHECK(attribute(device::no_reset, "reset_method").empty());
  CHECK(contents("/sys/devices/system/node/possible") == "0-1");
  CHECK(contents("/sys/devices/system/node/node1/cpulist") == "2-3");
  // The cases before this one may have loaded it: when the machine was ready it was not there.
  const std::string modules = contents("/run/lab/modules");
  CHECK(modules.find("e1000e ") != std::string::npos);
  CHECK(modules.find("vfio") == std::string::npos);
}

TEST_CASE("machine: with an IOMMU, a card's functions are one group, and so are the chipset's",
          "[intel][intel-6.12][amd][systemd][each]") {
  CHECK(group_of(device::gpu) == Addresses{device::gpu, device::gpu_audio});
  CHECK(group_of(device::second_gpu) == Addresses{device::second_gpu, device::second_gpu_audio});
  CHECK(group_of(device::nic) == Addresses{device::nic});
  CHECK(group_of(device::sata) == Addresses{device::lpc, device::sata, device::smbus});
}

TEST_CASE("machine: without an IOMMU there are no groups", "[none]") {
  CHECK(std::filesystem::is_empty("/sys/kernel/iommu_groups"));
  CHECK(group_of(device::gpu).empty());
}

TEST_CASE("machine: it has a KVM of its own", "[intel][intel-6.12][amd][none][systemd][each]") {
  CHECK(::access("/dev/kvm", R_OK | W_OK) == 0);
  CHECK(std::filesystem::exists("/sys/module/kvm_amd"));
}

TEST_CASE("machine: the monitor of the QEMU outside answers, time and again", "[intel]") {
  for (int time = 0; time < 2; ++time) {
    OuterMachine outer;
    CHECK(outer.execute("query-status").at("status") == "running");
    CHECK_THROWS(outer.execute("device_del", {{"id", "no such device"}}));
  }
}

TEST_CASE("machine: a device that is plugged in outside appears, and goes when it is asked for",
          "[intel]") {
  const std::string address = "0000:06:00.0";
  OuterMachine outer;
  outer.execute("device_add", {{"driver", "e1000e"}, {"id", "guest"}, {"bus", "port6"}});
  CHECK(eventually([&] { return driver_of(address) == "e1000e"; }, Seconds(30)));
  outer.execute("device_del", {{"id", "guest"}});
  outer.wait_for("DEVICE_DELETED");
  CHECK(eventually([&] { return !is_there(address); }));
}

TEST_CASE("machine: a GPU with its audio and a NIC go to VFIO and back",
          "[intel][intel-6.12][amd][each]") {
  REQUIRE(std::system("modprobe vfio-pci") == 0);
  const std::vector<std::string> devices = {device::gpu, device::gpu_audio, device::nic};
  for (const std::string& address : devices) {
    give(address, "vfio-pci");
    CHECK(driver_of(address) == "vfio-pci");
    const auto group =
        std::filesystem::read_symlink("/sys/bus/pci/devices/" + address + "/iommu_group");
    CHECK(std::filesystem::exists("/dev/vfio" / group.filename()));
  }
  for (const std::string& address : devices) {
    give(address, "");
    CHECK(driver_of(address) != "vfio-pci");
  }
}

TEST_CASE("machine: systemd is its first process and answers", "[systemd]") {
  CHECK(contents("/proc/1/comm") == "systemd");
  CHECK(std::system("systemctl is-active dbus.service") == 0);
  CHECK(std::system("systemctl show lab.service --property=ActiveState") == 0);
}
