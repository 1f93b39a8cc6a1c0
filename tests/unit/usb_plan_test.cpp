#include <string>
#include <vector>

#include "base/text.hpp"
#include "launcher/guardian/usb_nodes.hpp"
#include "launcher/plan/usb.hpp"
#include "tests/support/usb_tree.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher {
namespace {

using steps::tests::Laptop;

constexpr const char* kController = "0000:02:00.0";
const Identity kRoot{true, {"uid 1880000042", {1880000042, 1880000042, {}}}, false};
const Identity kPlain{false, {"anna", {1000, 1000, {}}}, true};

/// A laptop with a mouse, two keyboards alike and a hub.
struct Desk {
  Laptop laptop;
  survey::Survey survey;

  Desk() {
    add_usb_bus(laptop.tree, 1, kController);
    add_usb_device(laptop.tree, {.port = "1-1", .number = 2});
    add_usb_device(laptop.tree, {.port = "1-2", .number = 3, .ids = "046d:c316"});
    add_usb_device(laptop.tree, {.port = "1-3", .number = 4, .ids = "046d:c316"});
    add_usb_device(laptop.tree,
                   {.port = "1-4",
                    .number = 5,
                    .ids = "05e3:0608",
                    .device_class = 9,
                    .interface_class = 0x090000,
                    .driver = "hub"});
    look();
  }

  void look() {
    const base::Tree tree = laptop.tree.tree();
    survey::Reader reader(tree);
    survey.usb = survey::look_at_usb(reader, survey::UsbNames::left_out);
    survey.pci = survey::look_at_pci(tree);
    survey.cgroup = true;
    survey.kvm = {true, true, "", true, false};
    survey.uses.other_keyboard = true;
    survey.open_usb = {"1-1"};
  }

  [[nodiscard]] plan::Plan plan(const std::string& keys, const Identity& identity = kRoot) const {
    const std::string path = "/vms/vm.json";
    return plan::make_plan(config::load(config::Document(path, "{" + keys + "}"), path),
                           survey,
                           identity,
                           Authority::user);
  }

  [[nodiscard]] std::string refusal(const std::string& keys,
                                    const Identity& identity = kRoot) const {
    return tests::refusal([&] { static_cast<void>(plan(keys, identity)); });
  }
};

std::string usb(const std::string& entries) {
  return "\"usb\": [" + entries + "]";
}

TEST_CASE("usb: each rule becomes a step, a rule for QEMU's /dev, and what QEMU finds it by",
          "[plan]") {
  const Desk desk;
  const plan::Plan plan =
      desk.plan(usb(R"({"device": "046d:c051"}, {"port": "1-2"}, {"address": "1:4"})"));
  CHECK(plan.warnings.empty());
  CHECK(plan.steps.at(plan.steps.size() - 3) ==
        steps::lend_usb(config::UsbIds{0x046d, 0xc051}, false));
  CHECK(plan.steps.at(plan.steps.size() - 2) == steps::lend_usb(config::UsbPort{1, {2}}, false));
  CHECK(plan.steps.back() == steps::lend_usb(config::UsbAddress{1, 4}, false));
  REQUIRE(plan.qemu.dev);
  CHECK(plan.qemu.dev->usb.size() == 3);
  const std::string arguments = base::join(plan.qemu.arguments, " ");
  for (const char* part :
       {R"({"addr":"0x3","bus":"pcie.0","driver":"qemu-xhci","id":"usb","p2":15,"p3":15})",
        R"({"bus":"usb.0","driver":"usb-host","id":"usb-host0","productid":49233,"vendorid":1133})",
        R"({"bus":"usb.0","driver":"usb-host","hostbus":1,"hostport":"2","id":"usb-host1"})",
        R"({"bus":"usb.0","driver":"usb-host","hostaddr":4,"hostbus":1,"id":"usb-host2"})"}) {
    INFO(part);
    CHECK(arguments.find(part) != std::string::npos);
  }
}

TEST_CASE("usb: VNC's tablet and the host's devices share a controller", "[plan]") {
  const Desk desk;
  const std::string vnc = R"("display": {"vnc": "127.0.0.1:5900"}, )";
  const std::string arguments =
      base::join(desk.plan(vnc + usb(R"({"port": "1-1"})")).qemu.arguments, " ");
  const std::size_t first = arguments.find("qemu-xhci");
  CHECK(first != std::string::npos);
  CHECK(arguments.find("qemu-xhci", first + 1) == std::string::npos);
  CHECK(first < arguments.find("usb-tablet"));
}

TEST_CASE("usb: a device that is not there is refused, and one that may come later is told of",
          "[plan]") {
  const Desk desk;
  CHECK(desk.refusal(usb(R"({"device": "0781:5567"})")) ==
        "10: Cannot find the USB device 0781:5567; plug it in, or set \"optional\": true for one "
        "that may come later; type: vmlaunch host");
  const plan::Plan plan = desk.plan(usb(R"({"device": "0781:5567", "optional": true})"));
  CHECK(plan.warnings ==
        std::vector<std::string>{"the USB device 0781:5567 is not there: the guest "
                                 "gets it when it is plugged in"});
  CHECK(plan.steps.back() == steps::lend_usb(config::UsbIds{0x0781, 0x5567}, true));
}

TEST_CASE("usb: ids that two devices have are refused with both", "[plan]") {
  const Desk desk;
  CHECK(desk.refusal(usb(R"({"device": "046d:c316", "optional": true})")) ==
        "10: Cannot tell which USB device \"046d:c316\" means: there are 2\n"
        "  1-2 (046d:c316)\n  1-3 (046d:c316)\n  name one of them by its \"port\"");
}

TEST_CASE("usb: a hub, and a device that is listed twice, are refused, all at once", "[plan]") {
  const Desk desk;
  CHECK(
      desk.refusal(usb(R"({"port": "1-4"}, {"port": "1-1"}, {"device": "046d:c051"})")) ==
      "10: Cannot give the USB device 1-4 (05e3:0608) to the guest: it is a hub; list what is "
      "plugged into it\n"
      "Cannot give the USB device 1-1 (046d:c051) to the guest: the config lists it twice, as 1-1 "
      "and 046d:c051");
}

TEST_CASE("usb: a device whose controller the guest gets is refused", "[plan]") {
  const Desk desk;
  CHECK(desk.refusal(R"("pci": [{"device": "02:00.0"}], )" + usb(R"({"port": "1-1"})")) ==
        "10: Cannot give the USB device 1-1 (046d:c051) to the guest: its controller 0000:02:00.0 "
        "is taken from the host by the config's \"pci\", and all that is on it with it");
}

TEST_CASE("usb: a device that a program has open is busy", "[plan]") {
  Desk desk;
  bind_usb(desk.laptop.tree, "1-1:1.0", "usbfs");
  desk.look();
  CHECK(
      desk.refusal(usb(R"({"port": "1-1"})")) ==
      "11: Cannot give the USB device 1-1 (046d:c051) to the guest: a program uses it; type: sudo "
      "fuser -v /dev/bus/usb/001/002");
}

TEST_CASE("usb: what the host uses is refused, and what it does not is given", "[plan]") {
  Desk desk;
  desk.survey.uses.uses = {
      {{{0, 2, 0, 0}, "1-1"}, "sda1 is mounted on /data", "type: umount /data"},
      {{{0, 2, 0, 0}, ""}, "of the controller", "nothing"}};
  CHECK(desk.refusal(usb(R"({"port": "1-1"})")) ==
        "10: Cannot give the USB device 1-1 (046d:c051) to the guest: sda1 is mounted on /data; "
        "type: umount /data");
  CHECK_NOTHROW(desk.plan(usb(R"({"port": "1-2"})")));
}

TEST_CASE("usb: the host's last keyboard stays, and one of two is given", "[plan]") {
  Desk desk;
  desk.survey.uses.other_keyboard = false;
  desk.survey.uses.keyboards = {{{0, 2, 0, 0}, "1-2"}, {{0, 2, 0, 0}, "1-3"}};
  CHECK_NOTHROW(desk.plan(usb(R"({"port": "1-2"})")));
  CHECK(desk.refusal(usb(R"({"port": "1-2"}, {"port": "1-3"})"))
            .starts_with("10: Cannot take the USB device 1-2 from the host: it is the host's only "
                         "keyboard; plug in another, to stop the guest with\n"));
  desk.survey.uses.keyboards = {};
  CHECK_NOTHROW(desk.plan(usb(R"({"port": "1-1"})")));  // a host without one loses none
}

TEST_CASE("usb: what a running VM has by any rule is refused", "[plan]") {
  Desk desk;
  const std::string by = "the VM a has it (its guardian is pid 17)";
  desk.survey.usb_had = {{config::UsbIds{0x046d, 0xc051}, by},
                         {config::UsbIds{0x0781, 0x5567}, by}};
  CHECK(desk.refusal(usb(R"({"port": "1-1"})")) ==
        "21: Cannot take the USB device 1-1 (046d:c051): " + by + "; stop that first");
  CHECK(desk.refusal(usb(R"({"device": "0781:5567", "optional": true})")) ==
        "21: Cannot take the USB device 0781:5567: " + by + "; stop that first");
  CHECK_NOTHROW(desk.plan(usb(R"({"port": "1-2"})")));
}

TEST_CASE("usb: without root the node must be the caller's, and udev can see to that", "[plan]") {
  const Desk desk;
  const plan::Plan plan = desk.plan(usb(R"({"port": "1-1"})"), kPlain);
  REQUIRE(plan.qemu.dev);
  CHECK(plan.qemu.dev->usb.size() == 1);
  CHECK(plan.steps.back() == steps::lend_usb(config::UsbPort{1, {1}}, false));
  CHECK(
      desk.refusal(usb(R"({"port": "1-2"})"), kPlain) ==
      "10: Cannot open /dev/bus/usb/001/003, the USB device 1-2 (046d:c316); have udev give it to "
      "you with a line in /etc/udev/rules.d/70-vmlaunch.rules: SUBSYSTEM==\"usb\", "
      "ATTR{idVendor}==\"046d\", ATTR{idProduct}==\"c316\", TAG+=\"uaccess\"; or type: sudo "
      "vmlaunch …");
}

TEST_CASE("usb: QEMU's nodes are those of what the rules mean now, and of no hub", "[guardian]") {
  using guardian::UsbNodes;
  const Desk desk;
  const auto nodes = [&](const UsbNodes* given) {
    return guardian::usb_nodes(
        desk.laptop.tree.tree(),
        {config::UsbIds{0x046d, 0xc051}, config::UsbPort{1, {4}}, config::UsbAddress{1, 3}},
        given);
  };
  UsbNodes given = nodes(nullptr);
  CHECK(given == UsbNodes{{"bus/usb/001/002", "1-1"}, {"bus/usb/001/003", "1-2"}});
  CHECK(nodes(&given) == given);
  // One more with the same ids is not meant: that there are several would have been refused.
  add_usb_device(desk.laptop.tree, {.port = "1-5", .number = 9});
  CHECK(nodes(&given) == given);
  CHECK(nodes(nullptr) == UsbNodes{{"bus/usb/001/003", "1-2"}});
  remove_usb_device(desk.laptop.tree, "1-5");
  remove_usb_device(desk.laptop.tree, "1-1");
  remove_usb_device(desk.laptop.tree, "1-2");
  CHECK(nodes(&given).empty());
  // Devices that have the numbers of those that went, and one that came back with another.
  add_usb_device(desk.laptop.tree, {.port = "1-2", .number = 2, .ids = "0781:5567"});
  add_usb_device(desk.laptop.tree, {.port = "1-3", .number = 3, .ids = "0781:5567"});
  add_usb_device(desk.laptop.tree, {.port = "1-1", .number = 7});
  given.clear();
  CHECK(nodes(&given) == UsbNodes{{"bus/usb/001/007", "1-1"}});
}

}  // namespace
}  // namespace vmlaunch::launcher
