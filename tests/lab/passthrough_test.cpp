#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

namespace {

/// Runs a guest that gets the NIC, sees that it does and that the host has it back; what was said.
std::string words_of_nic_guest(const std::string& nic, const std::string& words) {
  const Folder folder;
  Program program(run_of(folder, nic_guest(nic, words)));
  const int code = program.exit_code(Seconds(200));
  UNSCOPED_INFO(program.output());
  CHECK(code == 0);
  CHECK(said(program, "bind " + nic + " to vfio-pci; it has e1000e"));
  CHECK(said(program, " 8086:10d3 class 0200"));
  CHECK(said(program, "host restored"));
  CHECK(driver_of(nic) == "e1000e");
  return program.output();
}

}  // namespace

TEST_CASE("passthrough: a NIC is in the guest, is pinged through, and comes back",
          "[intel][intel-6.12][amd][systemd][each]") {
  const std::string& nic = machine_name() == "amd" ? device::root_nic : device::nic;
  CHECK(words_of_nic_guest(nic, "demo.ping=10.0.2.2")
            .find("vmlaunch demo guest: ping 10.0.2.2 answered") != std::string::npos);
}

// The AMD IOMMU of QEMU 7.2 takes a device behind a bridge for another one, so that its DMA goes
// nowhere, in the host too (booted without iommu=pt the sound card finds no codec): no ping there.
TEST_CASE("passthrough: a NIC behind a bridge is in the guest and comes back", "[amd][each]") {
  CHECK(words_of_nic_guest(device::nic, "").find("vmlaunch demo guest: goodbye") !=
        std::string::npos);
}

TEST_CASE("passthrough: of a card with two functions both are bound, and the listed one is given",
          "[intel][amd]") {
  const Folder folder;
  Program program(
      run_of(folder, with_devices(guest_config("demo.stay"), {{{"device", device::gpu}}})));
  REQUIRE(program.says("vmlaunch demo guest: ready", Seconds(200)));
  CHECK(driver_of(device::gpu) == kVfio);
  CHECK(driver_of(device::gpu_audio) == kVfio);
  CHECK(attribute(device::gpu, "power/control") == "on");
  CHECK(attribute(device::gpu_audio, "d3cold_allowed") == "0");
  program.signal(SIGTERM);
  const int code = program.exit_code(Seconds(100));
  INFO(program.output());
  CHECK(code == 0);
  CHECK(said(program, " 1234:1111 class 0380"));
  CHECK_FALSE(said(program, "class 0403"));
  CHECK(driver_of(device::gpu) == "bochs-drm");
  CHECK(driver_of(device::gpu_audio) == "snd_hda_intel");
}

TEST_CASE("passthrough: of two identical cards the one at the address is taken",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  Program program(
      run_of(folder, probe_with({{{"device", device::second_gpu}, {"functions", "all"}}})));
  REQUIRE(program.says("] running"));
  CHECK(driver_of(device::second_gpu) == kVfio);
  CHECK(driver_of(device::second_gpu_audio) == kVfio);
  CHECK(driver_of(device::gpu) == "bochs-drm");
  CHECK(driver_of(device::gpu_audio) == "snd_hda_intel");
  CHECK(attribute(device::gpu, "driver_override") == "(null)");
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
  INFO(program.output());
  CHECK(said(program, "host restored"));
}

TEST_CASE("passthrough: a group that the host uses is refused with every verdict", "[intel]") {
  const Folder folder;
  for (const char* verb : {"run", "check", "plan"}) {
    INFO(verb);
    Program program(command_of(
        {verb, folder.write("vm.json", probe_with({{{"device", device::smbus}}}).dump())}));
    CHECK(program.exit_code() == 12);
    INFO(program.output());
    CHECK(said(program, device::lpc + " no driver\n"));
    CHECK(said(program, device::sata + " in use by ahci\n"));
    CHECK(said(program, device::smbus + " must bind, has i801_smbus, the guest gets it\n"));
    CHECK(said(program, "\"group\": \"all\""));
  }
}

TEST_CASE("passthrough: a device that is not there, or is another one, is refused", "[intel]") {
  const Folder folder;
  for (const auto& [pci, words] :
       {std::pair(Json{{"device", "0000:0f:00.0"}}, "Cannot find the PCI device 0000:0f:00.0"),
        std::pair(Json{{"device", device::gpu_port}}, "it is a bridge"),
        std::pair(Json{{"device", device::nic}, {"expect", "10de:1b81"}},
                  "it is 8086:10d3, and the config expects 10de:1b81")}) {
    INFO(words);
    Program program(run_of(folder, probe_with(Json::array({pci}))));
    CHECK(program.exit_code() == 10);
    INFO(program.output());
    CHECK(said(program, words));
  }
}

TEST_CASE("passthrough: without an IOMMU it is refused with what to do", "[none]") {
  const Folder folder;
  Program program(run_of(folder, probe_with({{{"device", device::nic}}})));
  CHECK(program.exit_code() == 10);
  INFO(program.output());
  CHECK(said(program, "the host's IOMMU is off"));
  CHECK(said(program, "turn on AMD-Vi"));  // what the processor of this machine is
  CHECK(said(program, "no table IVRS"));
}

TEST_CASE("passthrough: a device that vfio-pci has already is taken as it is and left so",
          "[intel]") {
  REQUIRE(std::system(("modprobe vfio-pci; echo vfio-pci > /sys/bus/pci/devices/" + device::nic +
                       "/driver_override; echo " + device::nic + " > /sys/bus/pci/devices/" +
                       device::nic + "/driver/unbind; echo " + device::nic +
                       " > /sys/bus/pci/drivers_probe")
                          .c_str()) == 0);
  REQUIRE(driver_of(device::nic) == kVfio);
  const Folder folder;
  {
    Program program(run_of(folder, probe_with({{{"device", device::nic}}})));
    REQUIRE(program.says("] running"));
    CHECK_FALSE(said(program, "bind " + device::nic));
    program.signal(SIGTERM);
    CHECK(program.exit_code() == 0);
  }
  CHECK(driver_of(device::nic) == kVfio);
  CHECK(attribute(device::nic, "driver_override") == kVfio);
  CHECK(std::system(("echo > /sys/bus/pci/devices/" + device::nic + "/driver_override; echo " +
                     device::nic + " > /sys/bus/pci/devices/" + device::nic +
                     "/driver/unbind; echo " + device::nic + " > /sys/bus/pci/drivers_probe")
                        .c_str()) == 0);
}

TEST_CASE("passthrough: a device that a running VM has is refused to another one",
          "[intel][intel-6.12][amd]") {
  const Folder folder;
  const Json config = probe_with({{{"device", device::nic}}});
  Program first(run_of(folder, config));
  REQUIRE(first.says("] running"));
  const std::string words = "Cannot take " + device::nic + ": the VM " +
                            config.at("name").get<std::string>() + " has it (its guardian is pid " +
                            std::to_string(guardian_pid(first)) + "; to shut it down, type: kill " +
                            std::to_string(first.pid()) + "); stop that first";
  const std::string other =
      folder.write("other.json", probe_with({{{"device", device::nic}}}).dump());
  for (const char* verb : {"run", "check", "plan"}) {
    INFO(verb);
    Program second(command_of({verb, other}));
    CHECK(second.exit_code() == 21);
    INFO(second.output());
    CHECK(said(second, words));
  }
  CHECK(driver_of(device::nic) == "vfio-pci");
  CHECK(lives(qemu_pid(first)));
  first.signal(SIGTERM);
  CHECK(first.exit_code() == 0);
  CHECK(driver_of(device::nic) == "e1000e");
}

TEST_CASE("passthrough: QEMU has the group's node, the limit for its memory and nothing of root's",
          "[intel]") {
  const Folder folder;
  Program program(run_of(folder, probe_with({{{"device", device::nic}}})));
  REQUIRE(program.says("] running"));
  struct stat node {};
  const std::string root = "/proc/" + std::to_string(qemu_pid(program)) + "/root";
  REQUIRE(::stat((root + vfio_node_of(device::nic)).c_str(), &node) == 0);
  CHECK((node.st_mode & 0777U) == 0600);
  const std::string status = contents("/proc/" + std::to_string(qemu_pid(program)) + "/status");
  CHECK(status.find("Uid:\t" + std::to_string(node.st_uid)) != std::string::npos);
  CHECK(node.st_uid != 0);
  const std::string limits = contents("/proc/" + std::to_string(qemu_pid(program)) + "/limits");
  CHECK(limits.find("Max locked memory         2147483648           2147483648") !=
        std::string::npos);
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
}

namespace {

/// Runs the probe with the NIC, does `harm` to the run, and gives its exit code.
int harmed(const std::function<void(Program&)>& harm, std::string* vm = nullptr) {
  const Folder folder;
  const Json config = probe_with({{{"device", device::nic}}});
  if (vm != nullptr) {
    *vm = config.at("name");
  }
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  REQUIRE(driver_of(device::nic) == kVfio);
  harm(program);
  const int code = program.exit_code();
  INFO(program.output());
  return code;
}

bool nic_is_back() {
  return eventually([] { return driver_of(device::nic) == "e1000e"; }, Seconds(30));
}

}  // namespace

TEST_CASE("passthrough: however QEMU dies, the host is restored at once",
          "[intel][intel-6.12][amd]") {
  for (const int signal : {SIGKILL, SIGABRT, SIGSEGV}) {
    INFO(signal);
    CHECK(harmed([&](Program& program) { ::kill(qemu_pid(program), signal); }) == 16);
    CHECK(driver_of(device::nic) == "e1000e");
  }
  const int stopped = harmed([](Program& program) {
    ::kill(qemu_pid(program), SIGSTOP);
    program.signal(SIGTERM);
  });
  CHECK(stopped == 18);
  CHECK(driver_of(device::nic) == "e1000e");
}

TEST_CASE("passthrough: a killed supervisor costs the host nothing", "[intel]") {
  CHECK(harmed([](Program& program) { program.signal(SIGKILL); }) == 137);
  CHECK(nic_is_back());
}

TEST_CASE("passthrough: after the guardian was killed recover restores the host",
          "[intel][intel-6.12][amd]") {
  for (const bool both : {false, true}) {
    INFO((both ? "guardian and supervisor" : "guardian"));
    std::string vm;
    const int code = harmed(
        [&](Program& program) {
          const pid_t guardian = guardian_pid(program);
          if (both) {
            ::kill(program.pid(), SIGSTOP);
          }
          ::kill(guardian, SIGKILL);
          if (both) {
            program.signal(SIGKILL);
          }
        },
        &vm);
    CHECK(code == (both ? 137 : 20));
    CHECK(driver_of(device::nic) == kVfio);
    Program recover(command_of({"recover", vm}));
    CHECK(recover.exit_code() == 0);
    INFO(recover.output());
    CHECK(driver_of(device::nic) == "e1000e");
  }
}

TEST_CASE("passthrough: after the guardian was killed the next start takes the NIC anew",
          "[intel][intel-6.12][amd]") {
  std::string vm;
  CHECK(harmed([](Program& program) { ::kill(guardian_pid(program), SIGKILL); }, &vm) == 20);
  REQUIRE(driver_of(device::nic) == kVfio);
  const Folder folder;
  Program next(run_of(folder, probe_with({{{"device", device::nic}}})));
  REQUIRE(next.says("] running"));
  CHECK(said(next, "left by an earlier run of " + vm + ", put back now: bind " + device::nic));
  CHECK(said(next, "] bind 0000:03:00.0 to vfio-pci; it has e1000e"));
  CHECK(driver_of(device::nic) == kVfio);
  next.signal(SIGTERM);
  CHECK(next.exit_code() == 0);
  CHECK(driver_of(device::nic) == "e1000e");
}

TEST_CASE("passthrough: under systemd a killed guardian's host is restored at once", "[systemd]") {
  for (const bool both : {false, true}) {
    INFO((both ? "guardian and supervisor" : "guardian"));
    const int code = harmed([&](Program& program) {
      const pid_t guardian = guardian_pid(program);
      CHECK(contents("/proc/" + std::to_string(guardian) + "/cgroup").find("vmlaunch-guardian-") !=
            std::string::npos);
      ::kill(guardian, SIGKILL);
      if (both) {
        program.signal(SIGKILL);
      }
    });
    CHECK(code == (both ? 137 : 20));
    CHECK(nic_is_back());
    CHECK(eventually([] {
      return std::system(
                 "systemctl list-units --all --plain --no-legend 'vmlaunch-guardian-*' | "
                 "grep -q .") != 0;
    }));
    Program recover(command_of({"recover"}));
    CHECK(recover.exit_code() == 0);
    CHECK(recover.output().empty());
  }
}

TEST_CASE("passthrough: under systemd the end of one VM says and does nothing about another",
          "[systemd]") {
  const Folder folder;
  Program other(run_of(folder, probe_with({{{"device", device::nic}}}), "other.json"));
  REQUIRE(other.says("] running"));
  const Json config = probe_config();
  {
    Program program(run_of(folder, config));
    REQUIRE(program.says("] running"));
    program.signal(SIGTERM);
    CHECK(program.exit_code() == 0);
    INFO(program.output());
    CHECK_FALSE(said(program, "nothing to recover"));
  }
  CHECK(driver_of(device::nic) == kVfio);
  // Killed, and started again at once: what systemd puts back then is waited for.
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  ::kill(guardian_pid(program), SIGKILL);
  CHECK(program.exit_code() == 20);
  Program again(run_of(folder, config));
  CHECK(again.says("] running"));
  for (Program* one : {&again, &other}) {
    one->signal(SIGTERM);
    CHECK(one->exit_code() == 0);
    INFO(one->output());
  }
  CHECK(driver_of(device::nic) == "e1000e");
}
