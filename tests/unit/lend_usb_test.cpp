#include <cerrno>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

#include "launcher/steps/reservations.hpp"
#include "tests/support/usb_tree.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

using Fault = FakeKernel::Fault;
using vmlaunch::tests::add_usb_bus;
using vmlaunch::tests::add_usb_device;
using vmlaunch::tests::bind_usb;
using vmlaunch::tests::remove_usb_device;
using vmlaunch::tests::snapshot;
using vmlaunch::tests::usb_folder;
using vmlaunch::tests::UsbParts;

const Step kLendMouse = lend_usb(config::UsbIds{0x046d, 0xc051}, false);

/// A laptop with a mouse that was lent to a QEMU.
struct Lent {
  Laptop laptop;
  FakeKernel kernel{laptop.tree};
  Journal journal = laptop.journal();
  std::map<std::string, std::string> before;

  Lent() {
    add_usb_bus(laptop.tree, 1, "0000:02:00.0");
    add_usb_device(laptop.tree, {.port = "1-2", .number = 4});
    kernel.set_usb_driver("1-2:1.0", "usbhid");
    before = snapshot(laptop.tree);
    apply(kLendMouse, kernel, context(), journal);
    CHECK(snapshot(laptop.tree) == before);
  }

  /// What a QEMU that is killed leaves.
  void leave_without_driver() { bind_usb(laptop.tree, "1-2:1.0", ""); }

  [[nodiscard]] std::string driver_of(const std::string& interface) const {
    return kernel.tree().link_name(usb_folder(laptop.tree, interface) + "/driver").value_or("");
  }
};

TEST_CASE("lend_usb: a device that QEMU gave back itself is left alone", "[usb]") {
  Lent lent;
  CHECK(undo_all(lent.kernel, lent.journal).code == ExitCode::ended);
  CHECK(lent.kernel.count() == 0);
}

TEST_CASE("lend_usb: what a killed QEMU leaves without a driver gets it back, from the journal",
          "[usb]") {
  Lent lent;
  lent.leave_without_driver();
  const auto undone = recover_vm(lent.kernel, lent.laptop.folders(), "vm");
  REQUIRE(undone);
  CHECK(undone->code == ExitCode::ended);
  CHECK(undone->restored ==
        std::vector<std::string>{"lend the guest the USB device 046d:c051: back to its drivers"});
  CHECK(vmlaunch::tests::difference(lent.before, snapshot(lent.laptop.tree)).empty());
}

TEST_CASE("lend_usb: whichever change of the way back fails, another try makes it", "[usb]") {
  for (const Fault fault : {Fault::fails, Fault::fails_after, Fault::killed, Fault::killed_after}) {
    for (int n = 1; n <= 2; ++n) {
      INFO("change " << n);
      Lent lent;
      lent.leave_without_driver();
      lent.laptop.tree.write(usb_folder(lent.laptop.tree, "1-2") + "/bConfigurationValue", "2\n");
      lent.kernel.fail_at(n, fault);
      try {
        const Undone undone = undo_all(lent.kernel, lent.journal);
        // A write that says it failed may have worked: where the device is counts.
        CHECK(undone.again == (fault == Fault::fails));
      } catch (const FakeKernel::Killed&) {
      }
      const auto undone = recover_vm(lent.kernel, lent.laptop.folders(), "vm");
      CHECK((!undone || undone->code == ExitCode::ended));
      CHECK(vmlaunch::tests::difference(lent.before, snapshot(lent.laptop.tree)).empty());
    }
  }
}

TEST_CASE("lend_usb: a device that was plugged in again elsewhere gets its drivers too", "[usb]") {
  Lent lent;
  remove_usb_device(lent.laptop.tree, "1-2");
  add_usb_device(lent.laptop.tree, {.port = "1-3", .number = 9, .driver = ""});
  lent.kernel.set_usb_driver("1-3:1.0", "usbhid");
  CHECK(undo_all(lent.kernel, lent.journal).code == ExitCode::ended);
  CHECK(lent.driver_of("1-3:1.0") == "usbhid");
}

TEST_CASE("lend_usb: of a device that is gone nothing is to be given back", "[usb]") {
  Lent lent;
  remove_usb_device(lent.laptop.tree, "1-2");
  CHECK(undo_all(lent.kernel, lent.journal).code == ExitCode::ended);
  CHECK(lent.kernel.count() == 0);
}

TEST_CASE("lend_usb: another device, and an interface that had no driver, are left alone",
          "[usb]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  add_usb_bus(laptop.tree, 1, "0000:02:00.0");
  add_usb_device(laptop.tree, {.port = "1-2", .driver = ""});
  add_usb_device(laptop.tree, {.port = "1-3", .ids = "0781:5567", .driver = ""});
  kernel.set_usb_driver("1-2:1.0", "usbhid");
  kernel.set_usb_driver("1-3:1.0", "usb-storage");
  Journal journal = laptop.journal();
  apply(kLendMouse, kernel, context(), journal);
  CHECK(undo_all(kernel, journal).code == ExitCode::ended);
  CHECK(kernel.count() == 0);
}

TEST_CASE("lend_usb: what is gone, or of two, or a program's since the survey is refused",
          "[usb]") {
  Laptop laptop;
  const FakeKernel kernel(laptop.tree);
  add_usb_bus(laptop.tree, 1, "0000:02:00.0");
  const Step optional = lend_usb(config::UsbIds{0x046d, 0xc051}, true);
  const auto refusal = [&](const Step& step) {
    return vmlaunch::tests::refusal([&] { static_cast<void>(step->capture(kernel, context())); });
  };
  CHECK(refusal(kLendMouse) ==
        "10: Cannot give the USB device 046d:c051 to the guest: there is none now; type: vmlaunch "
        "host");
  CHECK(optional->capture(kernel, context()).at("devices").empty());
  add_usb_device(laptop.tree, {.port = "1-2", .number = 4, .driver = "usbfs"});
  CHECK(refusal(optional) ==
        "11: Cannot give the USB device 1-2 to the guest: a program uses it; type: sudo fuser -v "
        "/dev/bus/usb/001/004");
  add_usb_device(laptop.tree, {.port = "1-3", .number = 5});
  CHECK(refusal(optional) ==
        "10: Cannot give the USB device 046d:c051 to the guest: there are several now; type: "
        "vmlaunch host");
}

TEST_CASE("lend_usb: a configuration that somebody uses is left, and named", "[usb]") {
  Lent lent;
  lent.laptop.tree.write(usb_folder(lent.laptop.tree, "1-2") + "/bConfigurationValue", "2\n");
  const Undone undone = undo_all(lent.kernel, lent.journal);
  CHECK(lent.kernel.count() == 0);
  CHECK(undone.code == ExitCode::host_not_restored);
  REQUIRE(undone.leftovers.size() == 1);
  CHECK(
      undone.leftovers[0].starts_with("changed by somebody else meanwhile, and left: the USB "
                                      "device 1-2 has another configuration"));
}

TEST_CASE("lend_usb: a driver that does not come back is named with the command", "[usb]") {
  Lent lent;
  lent.leave_without_driver();
  lent.kernel.set_usb_driver("1-2:1.0", "");
  const Undone undone = undo_all(lent.kernel, lent.journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  CHECK(undone.again);
  CHECK(undone.leftovers ==
        std::vector<std::string>{"lend the guest the USB device 046d:c051: the USB interface "
                                 "1-2:1.0 has no driver, had usbhid; type: echo 1-2:1.0 | sudo tee "
                                 "/sys/bus/usb/drivers_probe"});
}

/// A kernel that lets only root give drivers to devices, as a user meets it.
class StrictKernel : public FakeKernel {
 public:
  using FakeKernel::FakeKernel;
  void write_to_driver(const std::string& path, const std::string& /*value*/) override {
    throw std::system_error(EACCES, std::generic_category(), "write to " + path);
  }
};

TEST_CASE("lend_usb: what only root could give back is named, and keeps no other run from starting",
          "[usb]") {
  Lent lent;
  lent.leave_without_driver();
  StrictKernel kernel(lent.laptop.tree);
  const Undone undone = undo_all(kernel, lent.journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  CHECK_FALSE(undone.again);
  REQUIRE(undone.leftovers.size() == 1);
  CHECK(undone.leftovers[0].ends_with("type: echo 1-2:1.0 | sudo tee /sys/bus/usb/drivers_probe"));
}

TEST_CASE("lend_usb: a driver that somebody else gave it stays, and is named", "[usb]") {
  Lent lent;
  bind_usb(lent.laptop.tree, "1-2:1.0", "usbfs");
  const Undone undone = undo_all(lent.kernel, lent.journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  CHECK_FALSE(undone.again);
  CHECK(undone.leftovers ==
        std::vector<std::string>{"changed by somebody else meanwhile, and left: the USB interface "
                                 "1-2:1.0 has usbfs, had usbhid"});
  CHECK(lent.driver_of("1-2:1.0") == "usbfs");
}

TEST_CASE("lend_usb: a record that names anything but USB is not acted upon", "[usb]") {
  const auto refused = [](const std::function<void(Json&)>& change) {
    Lent lent;
    lent.leave_without_driver();
    Json found = lent.journal.entries()[0].found;
    change(found["devices"][0]);
    lent.journal.note(0, found);
    const Undone undone = undo_all(lent.kernel, lent.journal);
    return undone.code == ExitCode::host_not_restored && lent.kernel.count() == 0;
  };
  CHECK(refused([](Json& device) { device["port"] = "../1-2"; }));
  CHECK(refused([](Json& device) { device["ids"] = "046d"; }));
  CHECK(refused([](Json& device) { device["configuration"] = "1\n2"; }));
  CHECK(refused([](Json& device) { device["drivers"][0]["interface"] = "1-3:1.0"; }));
  CHECK(refused([](Json& device) { device["drivers"][0]["interface"] = "1-2:1.0/../.."; }));
  CHECK(refused([](Json& device) { device["drivers"][0]["driver"] = "a/b"; }));
  CHECK(refused([](Json& device) { device["more"] = 1; }));
}

TEST_CASE("lend_usb: two VMs cannot have a device by the same rule", "[usb]") {
  CHECK(kLendMouse->reserves() == std::vector<std::string>{"usb 046d:c051"});
  const Folder locks;
  const AnotherProcess other(
      [&] { return Lock::take(locks.path(), kLendMouse->reserves().front(), kRun, "win10"); });
  CHECK(reserved_usb(locks.path()).begin()->first ==
        config::UsbRule(config::UsbIds{0x046d, 0xc051}));
  CHECK(reserved_devices(locks.path()).empty());
  Reservations reservations(kRun, "vm");
  CHECK(vmlaunch::tests::refusal([&] {
          reservations.take(locks.path(), kLendMouse);
        }).starts_with("21: Cannot take usb 046d:c051: the VM win10 has it"));
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
