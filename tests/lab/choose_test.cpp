// Which devices a VM may take from the host, and when.

#include <fcntl.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/file.hpp"
#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

/// Does something to the host, and undoes it at its end.
class Arrangement {
 public:
  Arrangement(const std::string& make, std::string undo) : undo_(std::move(undo)) {
    INFO(make);
    REQUIRE(std::system(make.c_str()) == 0);
  }
  Arrangement(const Arrangement&) = delete;
  Arrangement& operator=(const Arrangement&) = delete;
  ~Arrangement() {
    INFO(undo_);
    CHECK(std::system(undo_.c_str()) == 0);
  }

 private:
  std::string undo_;
};

/// The only name in a folder that begins with `start`.
std::string name_in(const std::string& folder, const std::string& start) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().starts_with(start)) {
      return entry.path().filename();
    }
  }
  return "";
}

std::string devices_folder(const std::string& address) {
  return "/sys/bus/pci/devices/" + address;
}

/// "/dev/dri/card1": the first node of a GPU.
std::string card_of(const std::string& gpu) {
  return "/dev/dri/" + name_in(devices_folder(gpu) + "/drm", "card");
}

/// What `vmlaunch check` says to a config with these devices; it ends with `code`.
std::string checked(const Json& pci, int code) {
  const Folder folder;
  Program program(command_of({"check", folder.write("vm.json", probe_with(pci).dump())}));
  CHECK(program.exit_code() == code);
  return program.output();
}

void check_says(const Json& pci, int code, const std::string& words) {
  const std::string output = checked(pci, code);
  INFO(output);
  CHECK(output.find(words) != std::string::npos);
}

}  // namespace

TEST_CASE("choose: the NIC with the default route stays, below a bridge too", "[intel]") {
  const std::string nic = name_in(devices_folder(device::nic) + "/net", "e");
  const std::string start = "Cannot take " + device::nic + " from the host: " + nic;
  const Json pci = {{{"device", device::nic}}};
  {
    const Arrangement route(
        "ip link set " + nic + " up && ip address add 10.0.2.15/24 dev " + nic +
            " && ip route add default via 10.0.2.2",
        "ip route del default && ip address flush dev " + nic + " && ip link set " + nic + " down");
    check_says(pci, 10, start + " has the default route; type: ip route");
  }
  const Arrangement bridge("ip link add lab0 type bridge && ip link set " + nic +
                               " master lab0 && ip link set lab0 up && ip address add "
                               "10.0.2.15/24 dev lab0 && ip route add default via 10.0.2.2",
                           "ip link del lab0 && ip link set " + nic + " down");
  check_says(pci, 10, start + " has the default route through lab0; type: ip route");
}

TEST_CASE("choose: a disk that swap is built upon stays", "[intel]") {
  const Folder folder;
  const std::string file = folder.write("blocks", std::string(std::size_t{1} << 24U, '\0'));
  const std::string disk = name_in(devices_folder(device::nvme) + "/nvme", "nvme");
  // The disk keeps nothing, so the first part, with swap's header, is elsewhere.
  const Arrangement volume(
      "modprobe loop && modprobe dm-mod && loop=$(losetup --find --show " + file +
          ") && printf '0 16384 linear %s 0\\n16384 16384 linear /dev/" + disk +
          "n1 0\\n' $loop | dmsetup --noudevsync create lab-swap && mkswap /dev/dm-0 && swapon "
          "/dev/dm-0",
      "swapoff /dev/dm-0 && dmsetup --noudevsync remove lab-swap && losetup -D");
  check_says({{{"device", device::nvme}}},
             10,
             "Cannot take " + device::nvme + " from the host: dm-0 is swap, which is built upon " +
                 disk + "n1; type: swapoff /dev/dm-0");
  CHECK(checked({{{"device", device::second_nvme}}}, 0).find("passed") != std::string::npos);
}

TEST_CASE("choose: the controller of the last keyboard stays, and so does the last GPU",
          "[intel]") {
  const Json usb = {{{"device", device::usb}}};
  const Arrangement plugged(
      "modprobe -a usbhid hid-generic && for i in $(seq 100); do grep -q 'USB Keyboard' "
      "/proc/bus/input/devices && exit 0; sleep 0.1; done; exit 1",
      "modprobe -r hid-generic");
  CHECK(checked(usb, 0).find("passed") != std::string::npos);  // there is one on PS/2
  {
    const Arrangement unplugged("echo -n none > /sys/bus/serio/devices/serio0/drvctl",
                                "echo -n atkbd > /sys/bus/serio/devices/serio0/drvctl");
    check_says(usb, 10, "Cannot take " + device::usb + " from the host: the host's only keyboard");
  }
  check_says(
      {{{"device", device::boot_gpu}}, {{"device", device::gpu}}, {{"device", device::second_gpu}}},
      10,
      "Cannot take " + device::boot_gpu +
          " from the host: the host would have no GPU left for its own screen");
}

TEST_CASE("choose: ids of two cards are refused with both, and one that is free is chosen",
          "[intel][intel-6.12][amd]") {
  const std::string output = checked({{{"device", "class:0380"}}}, 10);
  INFO(output);
  CHECK(output.find("\n  " + device::gpu + " 1234:1111, driver bochs-drm\n") != std::string::npos);
  CHECK(output.find("\n  " + device::second_gpu + " 1234:1111, driver") != std::string::npos);

  const Folder folder;
  const Json either = {{{"device", {device::gpu, device::second_gpu}}}};
  Program first(run_of(folder, probe_with(either), "first.json"));
  REQUIRE(first.says("] running"));
  CHECK(driver_of(device::gpu) == kVfio);
  Program second(run_of(folder, probe_with(either), "second.json"));
  REQUIRE(second.says("] running"));
  CHECK(driver_of(device::second_gpu) == kVfio);
  check_says(either, 21, device::second_gpu + ": the VM ");
  for (Program* program : {&first, &second}) {
    program->signal(SIGTERM);
    CHECK(program->exit_code() == 0);
  }
  CHECK(driver_of(device::gpu) == "bochs-drm");
  CHECK(driver_of(device::second_gpu) == "bochs-drm");
}

TEST_CASE("choose: a GPU that a program has open is refused in time, with its name",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  const std::string card = card_of(device::gpu);
  const Arrangement user("sleep 1000 < " + card + " & echo $! > /run/lab-user",
                         "kill $(cat /run/lab-user) && rm /run/lab-user");
  Program program(
      run_of(folder, probe_with({{{"device", device::gpu}, {"release_timeout", "2s"}}})));
  CHECK(program.exit_code() == 11);
  INFO(program.output());
  const std::string pid = contents("/run/lab-user");
  CHECK(said(program, "waiting for sleep 1000 (" + pid + ") to close " + card + ", 2s left"));
  CHECK(said(program,
             "Cannot take " + device::gpu + " from the host: sleep 1000 (" + pid + ") has " + card +
                 " open; end what uses it, or type: kill " + pid));
  CHECK(said(program, "host restored"));
  CHECK(driver_of(device::gpu) == "bochs-drm");
}

TEST_CASE("choose: the start goes on when the GPU is closed", "[intel][intel-6.12][amd][systemd]") {
  const Folder folder;
  const std::string card = card_of(device::gpu);
  base::UniqueFd user = base::open_file(card, O_RDWR);
  Program program(
      run_of(folder, probe_with({{{"device", device::gpu}, {"release_timeout", "1m"}}})));
  REQUIRE(program.says(" to close " + card));
  CHECK(driver_of(device::gpu) == "bochs-drm");
  user.reset();
  REQUIRE(program.says("] running"));
  CHECK(driver_of(device::gpu) == kVfio);
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
  CHECK(driver_of(device::gpu) == "bochs-drm");
}

TEST_CASE("choose: Ctrl-C ends the wait for who has the GPU, and nothing was changed", "[intel]") {
  const Folder folder;
  const std::string card = card_of(device::gpu);
  const base::UniqueFd user = base::open_file(card, O_RDWR);
  Program program(
      run_of(folder, probe_with({{{"device", device::gpu}, {"release_timeout", "10m"}}})));
  REQUIRE(program.says(" to close " + card));
  const auto start = std::chrono::steady_clock::now();
  program.signal(SIGINT);
  CHECK(program.exit_code() == 0);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
  INFO(program.output());
  CHECK(said(program, "host restored"));
  CHECK(driver_of(device::gpu) == "bochs-drm");
  CHECK(attribute(device::gpu, "driver_override") == "(null)");
}

TEST_CASE("choose: what pci-stub has is nobody's, and the rest of its card is the guest's",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  Program program(run_of(folder,
                         probe_with({{{"device", device::gpu}},
                                     {{"device", device::gpu_audio}, {"driver", "pci-stub"}}})));
  REQUIRE(program.says("] running"));
  CHECK(driver_of(device::gpu) == kVfio);
  CHECK(driver_of(device::gpu_audio) == "pci-stub");
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
  CHECK(driver_of(device::gpu) == "bochs-drm");
  CHECK(driver_of(device::gpu_audio) == "snd_hda_intel");
}

TEST_CASE("choose: a card that is found anew is in the guest, and comes back",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  Program program(
      run_of(folder,
             with_devices(guest_config("demo.stay"),
                          {{{"device", device::gpu}, {"functions", "all"}, {"rescan", true}}})));
  const bool ready = program.says("vmlaunch demo guest: ready", Seconds(200));
  INFO(program.output());
  REQUIRE(ready);
  CHECK(said(program,
             "] remove " + device::gpu + ", " + device::gpu_audio + " and find them anew, with"));
  CHECK(driver_of(device::gpu) == kVfio);
  CHECK(driver_of(device::gpu_audio) == kVfio);
  CHECK(attribute(device::gpu, "power/control") == "on");
  program.signal(SIGTERM);
  CHECK(program.exit_code(Seconds(100)) == 0);
  CHECK(said(program, " 1234:1111 class 0380"));
  CHECK(driver_of(device::gpu) == "bochs-drm");
  CHECK(driver_of(device::gpu_audio) == "snd_hda_intel");
}
