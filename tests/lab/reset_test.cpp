#include <csignal>
#include <functional>

#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

namespace {

/// `vmlaunch device VERB ADDRESS …` gives `code`; what it said.
std::string device_verb(const std::vector<std::string>& words, int code = 0) {
  std::vector<std::string> arguments = {"device"};
  arguments.insert(arguments.end(), words.begin(), words.end());
  Program program(command_of(arguments));
  const int ended = program.exit_code(Seconds(200));
  UNSCOPED_INFO(program.output());
  CHECK(ended == code);
  return program.output();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// A card on vfio-pci for the time of a case, by vmlaunch's own verbs.
class OnVfio {
 public:
  explicit OnVfio(std::string address) : address_(std::move(address)) {
    device_verb({"bind", address_});
    REQUIRE(driver_of(address_) == kVfio);
  }
  OnVfio(const OnVfio&) = delete;
  OnVfio& operator=(const OnVfio&) = delete;
  ~OnVfio() { device_verb({"unbind", address_}); }

 private:
  std::string address_;
};

void set_methods(const std::string& address, const std::string& methods) {
  REQUIRE(std::system(("echo " + methods + " > /sys/bus/pci/devices/" + address + "/reset_method")
                          .c_str()) == 0);
}

}  // namespace

TEST_CASE("reset: each kind of device is reset in the way that it has, and no other",
          "[intel][intel-6.12]") {
  struct Row {
    std::string device;
    std::string methods;                ///< "": as they are
    std::string told;                   ///< by `device info`
    std::vector<std::string> attempts;  ///< by `device reset`, each "done"
  };
  const std::vector<Row> table = {
      {device::second_nvme, "", "reset of its own (flr)", {device::second_nvme + " by flr"}},
      {device::nic, "", "reset by sleep and waking (pm)", {device::nic + " by pm"}},
      // The kernel resets the bus, waits for the link, which this machine's ports never tell of,
      // and says that it could not.
      {device::nic, "bus", "reset by its bus, where it is alone", {}},
      {device::nic, "''", "hot reset of its bus, all functions together", {}},
      {device::gpu,
       "",
       "hot reset of its bus, all functions together",
       {device::gpu + ", " + device::gpu_audio + " together (vfio's hot reset)"}},
      {device::no_reset, "", "no reset", {}},
  };
  for (const Row& row : table) {
    INFO(row.device << " with methods " << row.methods);
    const std::string methods = attribute(row.device, "reset_method");
    {
      const OnVfio bound(row.device);
      if (!row.methods.empty()) {
        set_methods(row.device, row.methods);
      }
      const std::string set = attribute(row.device, "reset_method");
      CHECK(has(device_verb({"info", row.device}), row.told));
      const std::string said = device_verb({"reset", row.device});
      for (const std::string& attempt : row.attempts) {
        CHECK(has(said, attempt + ": done"));
      }
      CHECK(has(said, ": done") == !row.attempts.empty());
      CHECK(has(said,
                row.attempts.empty() ? "it works, and there is no way to reset it"
                                     : "reset, and seen to work"));
      CHECK(has(said, device::nic + " by bus: not possible") == (row.methods == "bus"));
      CHECK(attribute(row.device, "reset_method") == set);
      if (!row.methods.empty()) {
        set_methods(row.device, methods);
      }
    }
    CHECK(attribute(row.device, "reset_method") == methods);
  }
}

TEST_CASE(
    "reset: a card of which a function is kept from the guest has no reset, and that is named",
    "[intel]") {
  const Folder folder;
  Json pci = {{{"device", device::gpu}}, {{"device", device::gpu_audio}, {"driver", "pci-stub"}}};
  const std::string words =
      device::gpu + ": no reset: a hot reset of the bus would also reset " + device::gpu_audio;
  {
    Program program(run_of(folder, probe_with(pci)));
    REQUIRE(program.says("] running"));
    program.signal(SIGTERM);
    CHECK(program.exit_code() == 0);
    INFO(program.output());
    CHECK(said(program, words));
    CHECK(said(
        program,
        device::gpu + ": vfio has no reset for it: " + device::gpu_audio + " would be reset too"));
  }
  pci[0]["on_no_reset"] = "refuse";
  for (const char* verb : {"run", "check", "plan"}) {
    Program program(command_of({verb, folder.write("vm.json", probe_with(pci).dump())}));
    CHECK(program.exit_code() == 10);
    INFO(program.output());
    CHECK(said(program, words));
    CHECK(said(program, "on_no_reset"));
  }
}

TEST_CASE("reset: a device without any is given with a warning, and comes back", "[intel]") {
  const Folder folder;
  const Json config = probe_with({{{"device", device::no_reset}}, {{"device", device::nic}}});
  Program check(command_of({"check", "--json", folder.write("check.json", config.dump())}));
  CHECK(check.exit_code() == 0);
  const Json resets = Json::parse(check.output())["resets"];
  REQUIRE(resets.size() == 2);
  CHECK(resets[0] ==
        Json{{"functions", {device::no_reset}}, {"reset", "none"}, {"obstacles", Json::array()}});
  CHECK(resets[1]["reset"] == "power");
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
  INFO(program.output());
  CHECK(said(program, device::no_reset + ": no reset; a guest that crashes"));
  CHECK(said(program, device::no_reset + ": vfio has no reset for it"));
  CHECK(said(program, "host restored"));
}

TEST_CASE("reset: a rescan, where it is allowed, brings a card back with what it had",
          "[intel][intel-6.12]") {
  const std::string said = device_verb({"rescan", device::nic});
  CHECK(has(said, "found anew"));
  CHECK(driver_of(device::nic) == "e1000e");
  const OnVfio bound(device::no_reset);
  CHECK(has(device_verb({"reset", "--allow", "rescan", device::no_reset}),
            device::no_reset + " by being found anew: done"));
  CHECK(driver_of(device::no_reset) == kVfio);
}

TEST_CASE("reset: a device that a VM has, or that has another driver, is not reset", "[intel]") {
  CHECK(has(device_verb({"reset", device::nic}, 11), "vmlaunch device bind " + device::nic));
  CHECK(has(device_verb({"reset", "0f:00.0"}, 10), "Cannot find the PCI device 0000:0f:00.0"));
  CHECK(has(device_verb({"rescan", device::nic_port}, 10), "it is a bridge"));
  CHECK(has(device_verb({"reset", "nic"}, 2), "expected an address"));
  const Folder folder;
  Program program(run_of(folder, probe_with({{{"device", device::nic}}})));
  REQUIRE(program.says("] running"));
  for (const char* verb : {"reset", "unbind", "rescan"}) {
    CHECK(has(device_verb({verb, device::nic}, 21), "has it"));
  }
  CHECK(has(device_verb({"info", device::nic}), "has it"));
  CHECK(driver_of(device::nic) == kVfio);
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
}

namespace {

/// Starts the guest with the NIC and kills QEMU when the guest has said `moment`. A guest that got
/// so far as to ping has its NIC at work.
void kill_at(const std::string& moment) {
  INFO("killed at: " << moment);
  const Folder folder;
  Program program(
      run_of(folder, nic_guest(device::nic, "loglevel=7 demo.ping=10.0.2.2 demo.stay")));
  const bool reached = program.says(moment, Seconds(100));
  UNSCOPED_INFO(program.output());
  REQUIRE(reached);
  REQUIRE(::kill(qemu_pid(program), SIGKILL) == 0);
  CHECK(program.exit_code(Seconds(100)) == 16);
  CHECK(said(program, device::nic + " by pm: done"));
  CHECK(said(program, "host restored"));
  CHECK(driver_of(device::nic) == "e1000e");
}

/// Five starts in a row, ended in turn from the moment numbered `first` on; the last has the NIC at
/// work.
void kill_five(std::size_t first) {
  const std::vector<std::string> moments = {
      "] running",                                    // the firmware
      "vmlaunch demo guest: ping 10.0.2.2 answered",  // the NIC's memory accesses
      "Run /init as init process",                    // its driver is loaded next
      "vmlaunch demo guest: ping 10.0.2.2 answered",
  };
  for (std::size_t i = first; i < first + 4; ++i) {
    kill_at(moments[i % moments.size()]);
  }
  kill_at(moments.back());
}

}  // namespace

TEST_CASE("reset: after QEMU was killed at any moment the NIC works in the next guest", "[intel]") {
  kill_five(0);
}

TEST_CASE("reset: the same in ten starts more, up to the fifth", "[intel][full]") {
  kill_five(1);
}

TEST_CASE("reset: the same in ten starts more, up to the tenth", "[intel][full]") {
  kill_five(2);
}

TEST_CASE("reset: the same in the last five of twenty starts", "[intel][full]") {
  kill_five(3);
}

TEST_CASE("reset: a guest that reboots gets its devices reset and a QEMU of its own, if it is to",
          "[intel]") {
  const Folder folder;
  Json config = nic_guest(device::nic, "demo.ping=10.0.2.2 demo.reboot");
  config["on_reboot"] = "restart";
  config["memory"]["hugepages"] = "2M";
  Program program(run_of(folder, config));
  const bool twice =
      program.says_often("vmlaunch demo guest: ping 10.0.2.2 answered", 2, Seconds(300));
  INFO(program.output());
  REQUIRE(twice);
  // The host's driver has not had it in between.
  CHECK(driver_of(device::nic) == kVfio);
  const std::string& all = program.output();
  const std::size_t rebooted = all.find("the guest reboots");
  CHECK(all.find(device::nic + " by pm: done") > rebooted);
  CHECK(all.find("QEMU started, paused", rebooted) != std::string::npos);
  CHECK_FALSE(said(program, "host restored"));
  program.signal(SIGTERM);
  program.signal(SIGTERM);
  CHECK(program.exit_code(Seconds(100)) == 0);
  CHECK(said(program, "host restored"));
  CHECK(driver_of(device::nic) == "e1000e");
}
