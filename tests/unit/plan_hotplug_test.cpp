#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "launcher/plan/plan.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

/// Ids of the devices of that driver.
std::vector<std::string> devices_of(const Plan& plan, const std::string& driver) {
  std::vector<std::string> ids;
  for (const std::string& argument : plan.qemu.arguments) {
    const Json json = Json::parse(argument, nullptr, false);
    if (json.is_object() && json.value("driver", "") == driver) {
      ids.push_back(json.value("id", ""));
    }
  }
  return ids;
}

bool has(const std::vector<std::string>& list, const std::string& text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

TEST_CASE("plan: each kind that may be plugged in has its system calls, and no others", "[plan]") {
  const std::set<std::string> without = plan_of("{}").qemu.calls.sections;
  const auto added = [&](const std::string& kind) {
    std::set<std::string> more =
        plan_of("{\"hotplug\": [\"" + kind + "\"]}", host(), kSudo).qemu.calls.sections;
    for (const std::string& section : without) {
      more.erase(section);
    }
    return more;
  };
  CHECK(added("disk") == std::set<std::string>{"block-device", "disk-native"});
  CHECK(added("net") == std::set<std::string>{"tap", "vhost-net"});
  CHECK(added("pci") == std::set<std::string>{"vfio"});
  CHECK(added("usb") == std::set<std::string>{"usb"});
}

TEST_CASE("plan: what may be plugged in has free ports where the root bus takes nothing",
          "[plan]") {
  const std::vector<std::string> ports = {"hotplug0", "hotplug1", "hotplug2", "hotplug3"};
  for (const char* kind : {"disk", "pci", "net"}) {
    INFO(kind);
    const std::string list = "\"hotplug\": [\"" + std::string(kind) + "\", \"usb\"]";
    const Plan q35 = plan_of("{" + list + "}", host(), kSudo);
    CHECK(devices_of(q35, "pcie-root-port") == ports);
    const Plan pc = plan_of(R"({"machine": "pc", )" + list + "}", host(), kSudo);
    CHECK(devices_of(pc, "pcie-root-port").empty());
  }
  const Plan usb = plan_of(R"({"hotplug": ["usb"]})");
  CHECK(devices_of(usb, "pcie-root-port").empty());
  CHECK(devices_of(usb, "qemu-xhci") == std::vector<std::string>{"usb"});
}

TEST_CASE("plan: a device that may be plugged in finds memory, node and driver for it", "[plan]") {
  const Plan without = plan_of("{}", host(), kSudo);
  const Plan with = plan_of(R"({"hotplug": ["pci"], "usb": []})", host(), kSudo);
  CHECK_FALSE(without.qemu.memlock);
  CHECK(with.qemu.memlock > base::ByteSize{base::kGiB});
  CHECK(has(with.qemu.dev->nodes, "vfio/vfio"));
  CHECK_FALSE(has(without.qemu.dev->nodes, "vfio/vfio"));
  CHECK(has(with.qemu.root.shared, "/sys"));
  CHECK(has(with.qemu.root.hidden, "/sys/kernel"));
  CHECK(with.steps.size() == without.steps.size() + 1);
  CHECK(with.steps.back()->describe().find("vfio-pci") != std::string::npos);
}

TEST_CASE("plan: what may be plugged in is told", "[plan]") {
  CHECK(to_text(plan_of(R"({"hotplug": ["net", "usb"]})"))
            .find("  to plug in (usb, net): those of the start again, at most 10s at a time\n") !=
        std::string::npos);
  CHECK(to_text(plan_of("{}")).find("to plug in") == std::string::npos);
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
