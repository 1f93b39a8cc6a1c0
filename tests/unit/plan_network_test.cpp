#include <string>

#include "launcher/plan/plan.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

/// A host with a bridge, a card, a wireless card and a tap.
survey::Survey linked() {
  survey::Survey survey = host();
  survey.links["br0"] = {true, true, false, false, true};
  survey.links["eth0"] = {true, false, false, false, false};
  survey.links["wlan0"] = {true, false, false, true, true};
  survey.links["tap0"] = {true, false, true, false, true};
  survey.vhost_net = true;
  return survey;
}

TEST_CASE("plan: a NIC's tap reaches QEMU by descriptor, with vhost where that is there",
          "[plan]") {
  const std::string config =
      R"({"network": [{"user": {}}, {"bridge": "br0"}, {"tap": "tap0", "model": "e1000e"}]})";
  const Plan plan = plan_of(config, linked(), kSudo);
  CHECK(value_of(plan, "-netdev") ==
        R"({"id":"net0","type":"user"} | )"
        R"({"fd":"258","id":"net1","type":"tap","vhost":true,"vhostfd":"259"} | )"
        R"({"fd":"260","id":"net2","type":"tap"})");
  CHECK(plan.warnings.empty());
  survey::Survey survey = linked();
  survey.vhost_net = false;
  const Plan slow = plan_of(config, survey, kSudo);
  CHECK(value_of(slow, "-netdev").find("vhost") == std::string::npos);
  CHECK(
      base::join(slow.warnings, "\n") ==
      "NIC 1 is slower than it could be: there is no /dev/vhost-net for this run; to change that: "
      "modprobe vhost_net");
}

TEST_CASE("plan: a link that cannot serve is refused with the reason, all of them at once",
          "[plan]") {
  const auto refused = [](const std::string& nics, const Identity& identity = kSudo) {
    return refusal(
        [&] { static_cast<void>(plan_of(R"({"network": [)" + nics + "]}", linked(), identity)); });
  };
  CHECK(
      refused(R"({"bridge": "br1"}, {"bridge": "eth0"})") ==
      "10: Cannot find the network link br1; type: ip -br link\n"
      "Cannot use eth0 as a bridge: it is another kind of link; type: ip -d link show type bridge");
  CHECK(refused(R"({"tap": "br0"})") ==
        "10: Cannot use br0 as a tap: it is another kind of link; type: ip -d link show br0");
  CHECK(refused(R"({"macvtap": "wlan0"})") ==
        "10: Cannot make a macvtap on wlan0: it is wireless, and carries one MAC address only; "
        "type: ip -br link");
  CHECK(refused(R"({"bridge": "br0"})", kPlain).find("without root; type: sudo vmlaunch …") !=
        std::string::npos);
  CHECK(refused(R"({"macvtap": "eth0"})", kPlain).find("without root") != std::string::npos);
  CHECK(refused(R"({"tap": "tap0"})", kPlain) == "nothing");
}

TEST_CASE("plan: that a bridge keeps an address that would change is told", "[plan]") {
  survey::Survey survey = linked();
  survey.links["br0"].steady = false;
  CHECK(base::join(plan_of(R"({"network": [{"bridge": "br0"}]})", survey, kSudo).warnings, "\n") ==
        "br0, which has no port, keeps its address for good from now on: else it would have this "
        "VM's tap's, and none after it");
}

TEST_CASE("plan: a link that is down is a warning", "[plan]") {
  CHECK(base::join(plan_of(R"({"network": [{"macvtap": "eth0"}]})", linked(), kSudo).warnings,
                   "\n") ==
        "NIC 0 reaches nothing: eth0 is down; to change that: ip link set eth0 up");
}

TEST_CASE("plan: a NIC in the host's network has the same address at each start", "[plan]") {
  const auto mac = [](const std::string& config, std::size_t nic) {
    return load(config).network.at(nic).mac.value_or(config::MacAddress{"QEMU's"}).text;
  };
  const std::string two = R"({"network": [{"bridge": "br0"}, {"tap": "tap0"}, {"user": {}}]})";
  CHECK(mac(two, 0) == mac(two, 0));
  CHECK(mac(two, 0).starts_with("52:54:00:"));
  CHECK(mac(two, 0) != mac(two, 1));
  CHECK(mac(two, 2) == "QEMU's");
  CHECK(mac(R"({"name": "other", "network": [{"bridge": "br0"}]})", 0) != mac(two, 0));
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
