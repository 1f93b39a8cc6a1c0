#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

/// Makes the devices below a port dead: neither their registers nor their memory answer any more.
class DeadBelow {
 public:
  explicit DeadBelow(const std::string& port)
      : config_(base::open_file("/sys/bus/pci/devices/" + port + "/config", O_RDWR)) {
    base::check(::pread(config_.get(), &command_, sizeof command_, kCommand), "read the port");
    base::check(::pread(config_.get(), buses_.data(), buses_.size(), kBuses), "read the port");
    write(0, {0xfe, 0xfe});
  }
  DeadBelow(const DeadBelow&) = delete;
  DeadBelow& operator=(const DeadBelow&) = delete;
  ~DeadBelow() { revive(); }

  void revive() { write(command_, buses_); }

 private:
  static constexpr off_t kCommand = 0x04;
  static constexpr off_t kBuses = 0x19;  // the secondary bus, then the last one below the port

  void write(std::uint16_t command, const std::array<std::uint8_t, 2>& buses) {
    CHECK(::pwrite(config_.get(), buses.data(), buses.size(), kBuses) == 2);
    CHECK(::pwrite(config_.get(), &command, sizeof command, kCommand) == 2);
  }

  base::UniqueFd config_;
  std::uint16_t command_ = 0;
  std::array<std::uint8_t, 2> buses_{};
};

/// Uses a device as a VM does: the kernel lets vfio-pci not go of it before this does.
class DeviceUser {
 public:
  explicit DeviceUser(const std::string& address)
      : container_(base::open_file("/dev/vfio/vfio", O_RDWR)),
        group_(base::open_file(vfio_node_of(address), O_RDWR)) {
    const int container = container_.get();
    base::check(::ioctl(group_.get(), VFIO_GROUP_SET_CONTAINER, &container), "join the container");
    base::check(::ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "set the IOMMU's type");
    device_.reset(base::check(::ioctl(group_.get(), VFIO_GROUP_GET_DEVICE_FD, address.c_str()),
                              "open the device"));
  }

  [[nodiscard]] bool has_it() const {
    vfio_device_info info{};
    info.argsz = sizeof info;
    return ::ioctl(device_.get(), VFIO_DEVICE_GET_INFO, &info) == 0;
  }

 private:
  base::UniqueFd container_;
  base::UniqueFd group_;
  base::UniqueFd device_;
};

/// The program with `arguments` gives `code`; what it said.
std::string ends_with(int code, const std::vector<std::string>& arguments) {
  Program program(command_of(arguments));
  const int ended = program.exit_code(Seconds(200));
  UNSCOPED_INFO(program.output());
  CHECK(ended == code);
  return program.output();
}

std::string recovered(const std::string& vm, int code) {
  return ends_with(code, {"recover", vm});
}

/// A device that was reset while it was away does not know its windows any more: `recover` says so,
/// and works once it was found anew.
void rescan_and_recover(const std::string& vm, const std::string& device) {
  CHECK(recovered(vm, 19).find("vmlaunch device rescan " + device) != std::string::npos);
  ends_with(0, {"device", "rescan", device});
  CHECK(recovered(vm, 0).find("host restored") != std::string::npos);
}

}  // namespace

TEST_CASE("trouble: a device that died is named, and recover brings it back when it answers again",
          "[intel]") {
  const Folder folder;
  const Json config = probe_with({{{"device", device::nic}}});
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  DeadBelow dead(device::nic_port);
  program.signal(SIGTERM);
  CHECK(program.exit_code(Seconds(200)) == 19);
  INFO(program.output());
  const std::string words = device::nic + " does not answer: its configuration space reads as ff";
  CHECK(said(program, words));
  CHECK(said(program, "type: vmlaunch recover " + config["name"].get<std::string>()));
  // What does not need the device was put back.
  CHECK_FALSE(said(program, "not put back: make the cgroup"));
  CHECK(driver_of(device::nic) == kVfio);
  // It is kept from other VMs too, without another try.
  {
    const Folder other;
    Program second(run_of(other, probe_with({{{"device", device::nic}}})));
    CHECK(second.exit_code() == 19);
    INFO(second.output());
    CHECK(said(second, words));
    CHECK(said(second, "--force-tainted"));
  }
  dead.revive();
  rescan_and_recover(config["name"], device::nic);
  CHECK(driver_of(device::nic) == "e1000e");
}

TEST_CASE("trouble: a device that did not come back can be given to a guest all the same",
          "[intel][full]") {
  const Folder folder;
  const Json config = probe_with({{{"device", device::nic}}});
  const std::string file = folder.write("vm.json", config.dump());
  {
    Program program(command_of({file}));
    REQUIRE(program.says("] running"));
    DeadBelow dead(device::nic_port);
    program.signal(SIGTERM);
    CHECK(program.exit_code(Seconds(200)) == 19);
  }
  // It was reset while it was away, and does not know its windows any more.
  ends_with(0, {"device", "rescan", device::nic});
  ends_with(19, {file});
  CHECK(driver_of(device::nic) == kVfio);
  Program forced(command_of({"run", "--force-tainted", file}));
  const bool runs = forced.says("] running");
  INFO(forced.output());
  REQUIRE(runs);
  forced.signal(SIGTERM);
  CHECK(forced.exit_code(Seconds(100)) == 0);
  CHECK(said(forced, "host restored"));
  CHECK(driver_of(device::nic) == "e1000e");
}

TEST_CASE("trouble: a device that dies while the guest uses it costs the guest, and not the host",
          "[intel][full]") {
  const Folder folder;
  const Json config = nic_guest(device::nic, "demo.ping=10.0.2.2 demo.stay");
  Program program(run_of(folder, config));
  const bool pinged = program.says("ping 10.0.2.2 answered", Seconds(100));
  INFO(program.output());
  REQUIRE(pinged);
  DeadBelow dead(device::nic_port);
  program.signal(SIGTERM);
  program.signal(SIGTERM);
  // QEMU ends at once, or waits in the kernel for the device longer than anybody waits for it.
  const int code = program.exit_code(Seconds(400));
  CHECK((code == 19 || code == 22));
  CHECK(said(program, device::nic));
  CHECK(said(program, "type: vmlaunch recover " + config["name"].get<std::string>()));
  if (code == 22) {
    CHECK(said(program, "it is stuck in the kernel, and nothing that it uses was touched"));
    CHECK(eventually([&] { return !lives(qemu_pid(program)); }, Seconds(300)));
  }
  dead.revive();
  rescan_and_recover(config["name"], device::nic);
  CHECK(driver_of(device::nic) == "e1000e");
}

TEST_CASE("trouble: a disk that is never ready again after its reset is waited for, and kept apart",
          "[intel][full]") {
  ends_with(0, {"device", "bind", device::second_nvme});
  {
    Program program(command_of({"device", "reset", device::second_nvme}));
    REQUIRE(program.says("resets " + device::second_nvme + " by flr"));
    const DeadBelow dead(device::second_nvme_port);
    CHECK(program.exit_code(Seconds(400)) == 19);
    INFO(program.output());
    CHECK(said(program, device::second_nvme + " does not answer"));
    CHECK(said(program, "vmlaunch recover reset-0000.05.00.0"));
  }
  rescan_and_recover("reset-0000.05.00.0", device::second_nvme);
  ends_with(0, {"device", "unbind", device::second_nvme});
  CHECK(driver_of(device::second_nvme) == "nvme");
}

TEST_CASE("trouble: a device that is asked back leaves the guest, which goes on", "[intel][full]") {
  const Folder folder;
  const Json config = nic_guest(device::nic, "demo.stay");
  Program program(run_of(folder, config));
  REQUIRE(program.says("vmlaunch demo guest: ready", Seconds(200)));
  OuterMachine outer;
  outer.execute("device_del", {{"id", "nic"}});
  CHECK(outer.wait_for("DEVICE_DELETED", 60).value("device", "") == "nic");
  CHECK(eventually([] { return !is_there(device::nic); }));
  CHECK(lives(qemu_pid(program)));
  program.signal(SIGTERM);
  CHECK(program.exit_code(Seconds(100)) == 20);
  INFO(program.output());
  CHECK(said(program, "vmlaunch demo guest: power button"));
  CHECK(said(program, "the PCI device " + device::nic + " is gone"));
  // Nothing is left that another try could put back.
  CHECK(recovered(config["name"], 0) ==
        config["name"].get<std::string>() + ": nothing to put back\n");
  outer.execute("device_add",
                {{"driver", "e1000e"},
                 {"id", "nic"},
                 {"bus", "port3"},
                 {"netdev", "net0"},
                 {"mac", "52:54:00:00:00:01"}});
  CHECK(eventually([] { return driver_of(device::nic) == "e1000e"; }, Seconds(30)));
}

TEST_CASE(
    "trouble: a device that another program took meanwhile is left, named, and recovered later",
    "[intel]") {
  const Folder folder;
  const Json config = probe_with({{{"device", device::nic}}});
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  {
    const DeviceUser user(device::nic);
    program.signal(SIGTERM);
    CHECK(program.exit_code(Seconds(100)) == 20);
    INFO(program.output());
    CHECK(said(program, "another program has the IOMMU group"));
    CHECK(said(program, "type: fuser -v /dev/vfio/"));
    CHECK(said(program, "type: vmlaunch recover " + config["name"].get<std::string>()));
    // Nothing was forced behind it: an unbind under it would sleep in the kernel until it ends.
    CHECK(user.has_it());
    CHECK(driver_of(device::nic) == kVfio);
    CHECK(attribute(device::nic, "power/control") == "on");
    CHECK(attribute(device::nic, "d3cold_allowed") == "0");
    Program reset(command_of({"device", "reset", device::nic}));
    CHECK(reset.exit_code() != 0);
    CHECK(user.has_it());
  }
  CHECK(recovered(config["name"], 0).find("host restored") != std::string::npos);
  CHECK(driver_of(device::nic) == "e1000e");
}
