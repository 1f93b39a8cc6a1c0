// USB devices of the host, plugged into it from outside.

#include <linux/netlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "base/errors.hpp"
#include "base/process.hpp"
#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

namespace fs = std::filesystem;

const fs::path kDevices = "/sys/bus/usb/devices";
const std::string kDisk = "46f4:0001";  // what QEMU's usb-storage is

bool becomes_true(const std::function<bool()>& holds) {
  for (int i = 0; i < 300 && !holds(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  return holds();
}

/// The sysfs name of the disk; "" while there is none.
std::string disk() {
  for (const auto& device : fs::directory_iterator(kDevices)) {
    if (contents(device.path() / "idVendor") + ":" + contents(device.path() / "idProduct") ==
        kDisk) {
      return device.path().filename();
    }
  }
  return "";
}

std::string driver_of_disk() {
  std::error_code error;
  return fs::read_symlink(kDevices / (disk() + ":1.0") / "driver", error).filename();
}

bool has_driver() {
  return !disk().empty() && driver_of_disk() == "usb-storage";
}

/// "/dev/bus/usb/001/004"
std::string node_of_disk() {
  std::array<char, 32> name{};
  const auto number = [&](const char* attribute) {
    return std::atoi(contents(kDevices / disk() / attribute).c_str());
  };
  static_cast<void>(std::snprintf(
      name.data(), name.size(), "/dev/bus/usb/%03d/%03d", number("busnum"), number("devnum")));
  return name.data();
}

/// A disk that is plugged into the machine while this lives.
class UsbDisk {
 public:
  UsbDisk() {
    REQUIRE(std::system("modprobe -a usb-storage sd_mod") == 0);
    outer_.execute("blockdev-add",
                   {{"driver", "null-co"}, {"node-name", "usb"}, {"size", 1 << 24}});
    plug();
  }
  UsbDisk(const UsbDisk&) = delete;
  UsbDisk& operator=(const UsbDisk&) = delete;
  ~UsbDisk() {
    unplug();
    outer_.execute("blockdev-del", {{"node-name", "usb"}});
  }

  void plug() {
    outer_.execute(
        "device_add",
        {{"driver", "usb-storage"}, {"id", "stick"}, {"bus", "usb.0"}, {"drive", "usb"}});
    CHECK(becomes_true([] { return !disk().empty(); }));
  }
  void unplug() {
    outer_.execute("device_del", {{"id", "stick"}});
    CHECK(becomes_true([] { return disk().empty(); }));
  }

 private:
  OuterMachine outer_;
};

/// Does what udev does for libusb: passes the kernel's news on to udev's listeners.
class UdevStandIn {
 public:
  UdevStandIn() {
    fs::create_directories("/run/udev");
    std::ofstream("/run/udev/control");
    const base::UniqueFd kernel = listen(1);
    child_ = base::fork_child("a stand-in for udev");
    if (child_.pid == 0) {
      pass_on(kernel.get());
    }
  }
  UdevStandIn(const UdevStandIn&) = delete;
  UdevStandIn& operator=(const UdevStandIn&) = delete;
  ~UdevStandIn() {
    static_cast<void>(base::send_signal(child_.pidfd.get(), SIGKILL));
    CHECK(base::reap_within(child_.pidfd.get(), std::chrono::seconds(10)));
    fs::remove_all("/run/udev");
  }

 private:
  static sockaddr_nl address(unsigned groups) {
    sockaddr_nl address{};
    address.nl_family = AF_NETLINK;
    address.nl_groups = groups;
    return address;
  }

  static base::UniqueFd listen(unsigned groups) {
    base::UniqueFd socket(base::check(
        ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT), "make a socket"));
    const sockaddr_nl own = address(groups);
    base::check(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&own), sizeof own),
                "listen to the kernel");
    return socket;
  }

  [[noreturn]] static void pass_on(int kernel) {
    const sockaddr_nl listeners = address(2);
    std::array<char, 8192> news{};
    for (;;) {
      const ssize_t got = ::recv(kernel, news.data(), news.size(), 0);
      if (got > 0) {
        static_cast<void>(::sendto(kernel,
                                   news.data(),
                                   static_cast<std::size_t>(got),
                                   0,
                                   reinterpret_cast<const sockaddr*>(&listeners),
                                   sizeof listeners));
      }
    }
  }

  base::Child child_;
};

Json with_usb(Json config, const Json& usb) {
  config["usb"] = usb;
  return config;
}

const Json kDiskByIds = {{{"device", kDisk}}};

/// Whether QEMU has the disk's node of now open.
bool is_open_in(pid_t qemu) {
  if (disk().empty()) {
    return false;
  }
  const std::string node = node_of_disk();
  std::error_code error;
  for (const auto& fd : fs::directory_iterator("/proc/" + std::to_string(qemu) + "/fd")) {
    if (fs::read_symlink(fd, error) == node) {
      return true;
    }
  }
  return false;
}

/// The nodes below bus/usb in QEMU's /dev.
std::vector<std::string> nodes_in(pid_t qemu) {
  std::vector<std::string> nodes;
  const fs::path root = "/proc/" + std::to_string(qemu) + "/root";
  for (const auto& node : fs::recursive_directory_iterator(root / "dev/bus/usb")) {
    if (!node.is_directory()) {
      nodes.push_back(node.path().string().substr(root.string().size()));
    }
  }
  return nodes;
}

void check_refused(const Json& usb, int code, const std::string& words) {
  const Folder folder;
  Program program(
      command_of({"check", folder.write("vm.json", with_usb(probe_config(), usb).dump())}));
  CHECK(program.exit_code() == code);
  INFO(program.output());
  CHECK(said(program, words));
}

}  // namespace

TEST_CASE("usb: a keyboard and a disk that is plugged in are shown at their controller",
          "[intel][intel-6.12][amd]") {
  const UsbDisk plugged;
  REQUIRE(becomes_true(has_driver));
  Program program(command_of({"host", "--json"}));
  REQUIRE(program.exit_code() == 0);
  int found = 0;
  const Json host = Json::parse(program.output());
  for (const Json& bus : host.at("usb")) {
    CHECK(bus.at("controller") == device::usb);
    for (const Json& device : bus.at("devices")) {
      if (device.at("ids") == kDisk) {
        ++found;
        CHECK(device.at("port") == disk());
        CHECK(device.at("product") == "QEMU USB HARDDRIVE");
        CHECK(device.at("interfaces").at(0).at("driver") == "usb-storage");
      } else if (device.at("product") == "QEMU USB Keyboard") {
        ++found;
      }
    }
  }
  CHECK(found == 2);
}

TEST_CASE("usb: QEMU takes a disk from its driver, which has it back after QEMU was killed",
          "[intel][intel-6.12][amd][systemd]") {
  const UsbDisk plugged;
  REQUIRE(becomes_true(has_driver));
  const Folder folder;
  Program program(run_of(folder, with_usb(idle_config(), kDiskByIds)));
  REQUIRE(program.says("] running"));
  const pid_t qemu = qemu_pid(program);
  CHECK(becomes_true([&] { return is_open_in(qemu); }));
  CHECK(nodes_in(qemu) == std::vector<std::string>{node_of_disk()});
  CHECK_FALSE(has_driver());
  CHECK(::kill(qemu, SIGKILL) == 0);
  CHECK(program.exit_code() == 16);
  INFO(program.output());
  CHECK(said(program, "host restored"));
  CHECK(has_driver());
}

TEST_CASE("usb: a disk that is plugged in again is QEMU's again, and its old number is not",
          "[intel][intel-6.12][amd]") {
  UsbDisk plugged;
  REQUIRE(becomes_true(has_driver));
  const UdevStandIn udev;
  const Folder folder;
  Program program(run_of(folder, with_usb(idle_config(), kDiskByIds)));
  REQUIRE(program.says("] running"));
  const pid_t qemu = qemu_pid(program);
  CHECK(becomes_true([&] { return is_open_in(qemu); }));
  const std::string before = node_of_disk();
  plugged.unplug();
  CHECK(becomes_true([&] { return nodes_in(qemu).empty(); }));
  plugged.plug();
  REQUIRE(node_of_disk() != before);
  CHECK(becomes_true([&] { return is_open_in(qemu); }));
  CHECK(nodes_in(qemu) == std::vector<std::string>{node_of_disk()});
  program.signal(SIGINT);
  CHECK(program.exit_code() == 18);
  INFO(program.output());
  CHECK(said(program, "host restored"));
  CHECK(becomes_true(has_driver));
}

TEST_CASE("usb: a disk that something is built upon, and the last keyboard, stay",
          "[intel][intel-6.12][amd]") {
  const UsbDisk plugged;
  REQUIRE(becomes_true([] { return fs::exists("/dev/sda"); }));
  REQUIRE(std::system("modprobe dm-mod && dmsetup --noudevsync create lab-usb --table "
                      "'0 16384 linear /dev/sda 0'") == 0);
  check_refused(kDiskByIds, 10, "sda is a part of dm-0 (lab-usb)");
  CHECK(std::system("dmsetup --noudevsync remove lab-usb") == 0);
  check_refused(kDiskByIds, 0, "passed");
  REQUIRE(std::system("modprobe -a usbhid hid-generic && for i in $(seq 100); do grep -q 'USB "
                      "Keyboard' /proc/bus/input/devices && exit 0; sleep 0.1; done; exit 1") == 0);
  const Json keyboard = {{{"device", "0627:0001"}}};
  check_refused(keyboard, 0, "passed");  // there is one on PS/2
  REQUIRE(std::system("echo -n none > /sys/bus/serio/devices/serio0/drvctl") == 0);
  check_refused(keyboard, 10, "it is the host's only keyboard");
  CHECK(std::system("echo -n atkbd > /sys/bus/serio/devices/serio0/drvctl") == 0);
  CHECK(std::system("modprobe -r hid-generic") == 0);
}

TEST_CASE("usb: what a running VM has is refused to another, by any rule",
          "[intel][intel-6.12][amd]") {
  const UsbDisk plugged;
  REQUIRE(becomes_true(has_driver));
  const Folder folder;
  Program program(run_of(folder, with_usb(probe_config(), kDiskByIds)));
  REQUIRE(program.says("] running"));
  for (const Json& entry : {Json{{"device", kDisk}}, Json{{"port", disk()}}}) {
    Json config = with_usb(probe_config(), Json::array({entry}));
    config["name"] = "other";
    Program other(run_of(folder, config, "other.json"));
    CHECK(other.exit_code() == 21);
    INFO(other.output());
    CHECK(said(other, "; stop that first"));
  }
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
}
