#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "launcher/steps/steps.hpp"
#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

constexpr uid_t kPerson = 12345;

bool has_link(const std::string& name) {
  return std::filesystem::exists("/sys/class/net/" + name);
}

Json on(Json config, const Json& nic) {
  config["network"] = Json::array({nic});
  return config;
}

std::string name_of(const Json& config) {
  return config["name"].get<std::string>();
}

void kill_all(const Program& program) {
  ::kill(guardian_pid(program), SIGKILL);
  ::kill(program.pid(), SIGKILL);
}

void recover(const std::string& vm) {
  Program recover(command_of({"recover", vm}));
  CHECK(recover.exit_code(Seconds(100)) == 0);
}

}  // namespace

TEST_CASE("network: a guest on a bridge is reached, and the bridge is as before",
          "[intel][intel-6.12][amd]") {
  const Made bridge = a_bridge();
  const std::string address = contents("/sys/class/net/br0/address");
  const Folder folder;
  for (const char* model : {"virtio", "e1000e"}) {
    const Json config =
        on(guest_config("demo.ping=10.0.2.2"), {{"bridge", "br0"}, {"model", model}});
    Program program(run_of(folder, config));
    const int code = program.exit_code(Seconds(200));
    INFO(program.output());
    CHECK(code == 0);
    CHECK(said(program, "vmlaunch demo guest: ping 10.0.2.2 answered"));
    CHECK_FALSE(said(program, "warning: "));  // the kernel carries a virtio NIC's packets
    CHECK_FALSE(has_link(launcher::steps::own_link_name(name_of(config), 0)));
    CHECK(contents("/sys/class/net/br0/address") == address);
    CHECK(contents("/sys/class/net/br0/mtu") == "1400");
  }
}

TEST_CASE("network: a bridge without ports keeps its address, with a tap and after it",
          "[intel][intel-6.12][amd]") {
  const Made bridge(
      "modprobe -a tun vhost_net && ip link add br1 type bridge && ip link set br1 up",
      "ip link del br1");
  const std::string address = contents("/sys/class/net/br1/address");
  CHECK(contents("/sys/class/net/br1/addr_assign_type") != "3");
  const Folder folder;
  const Json config = on(probe_config(), {{"bridge", "br1"}});
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  CHECK(contents("/sys/class/net/br1/address") == address);
  kill_all(program);
  CHECK(eventually([] { return std::filesystem::is_empty("/sys/class/net/br1/brif"); }));
  CHECK(contents("/sys/class/net/br1/address") == address);
  recover(name_of(config));
}

TEST_CASE("network: a tap on a bridge is gone with QEMU, whatever is killed",
          "[intel][intel-6.12][amd][systemd]") {
  const Made bridge = a_bridge();
  const Folder folder;
  const Json config = on(probe_config(), {{"bridge", "br0"}});
  const std::string tap = launcher::steps::own_link_name(name_of(config), 0);
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  CHECK(std::filesystem::read_symlink("/sys/class/net/" + tap + "/master").filename() == "br0");
  CHECK(contents("/sys/class/net/" + tap + "/mtu") == "1400");
  CHECK(facts_of(qemu_pid(program))["fds"]["256"] == "/dev/net/tun");
  kill_all(program);
  CHECK(eventually([&] { return !has_link(tap); }));
  recover(name_of(config));
}

TEST_CASE("network: a guest on a macvtap reaches the link's network, and nothing is left",
          "[intel][intel-6.12][amd]") {
  const std::string link = link_of(device::nic);
  const Made up("ip link set " + link + " up", "ip link set " + link + " down");
  const Folder folder;
  const Json config = on(guest_config("demo.ping=10.0.2.2"), {{"macvtap", link}});
  Program program(run_of(folder, config));
  const int code = program.exit_code(Seconds(200));
  INFO(program.output());
  CHECK(code == 0);
  CHECK(said(program, "vmlaunch demo guest: ping 10.0.2.2 answered"));
  CHECK_FALSE(has_link(launcher::steps::own_link_name(name_of(config), 0)));
}

TEST_CASE("network: a macvtap that a killed run left is removed by recover",
          "[intel][intel-6.12][amd]") {
  const std::string link = link_of(device::nic);
  const Made up("ip link set " + link + " up", "ip link set " + link + " down");
  const Folder folder;
  const Json config = on(probe_config(), {{"macvtap", link}});
  const std::string made = launcher::steps::own_link_name(name_of(config), 0);
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  kill_all(program);
  CHECK(has_link(made));
  recover(name_of(config));
  CHECK_FALSE(has_link(made));
}

TEST_CASE("network: a user without root has a tap of the user's own, and no other",
          "[intel][intel-6.12][amd]") {
  const Made tap(
      "modprobe tun && chmod 0666 /dev/net/tun && ip tuntap add dev tap0 mode tap user 12345",
      "ip tuntap del dev tap0 mode tap");
  const Made other("ip tuntap add dev tap1 mode tap user 777", "ip tuntap del dev tap1 mode tap");
  const Folder folder;
  Launch launch = run_of(folder, on(probe_config(), {{"tap", "tap0"}}));
  launch.uid = kPerson;
  Program program(launch);
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(facts_of(qemu_pid(program))["fds"]["256"] == "/dev/net/tun");
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
  CHECK(has_link("tap0"));

  Launch refused = run_of(folder, on(probe_config(), {{"tap", "tap1"}}), "other.json");
  refused.uid = kPerson;
  Program second(refused);
  CHECK(second.exit_code() == 10);
  INFO(second.output());
  CHECK(said(second, "Cannot open the tap tap1: it is another user's"));
}
