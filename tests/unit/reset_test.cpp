#include "launcher/survey/reset.hpp"

#include <cerrno>

#include "launcher/steps/health.hpp"
#include "launcher/steps/reset_ladder.hpp"
#include "launcher/steps/taints.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;
using config::ResetRung;
using survey::ResetOutlook;
using Kind = survey::ResetOutlook::Kind;
using Words = std::vector<std::string>;

const base::PciAddress kNic{0, 2, 0, 0};

/// A laptop of which vfio has the card and the NIC.
struct Bound {
  Laptop laptop;
  FakeKernel kernel{laptop.tree};

  Bound() {
    for (const char* address : {"0000:01:00.0", "0000:01:00.1", "0000:02:00.0"}) {
      laptop.tree.bind(address, "vfio-pci");
      laptop.tree.write(laptop.tree.device(address) + "/driver_override", "vfio-pci\n");
      laptop.tree.write(laptop.tree.device(address) + "/power/control", "on\n");
      laptop.tree.write(laptop.tree.device(address) + "/power_state", "D0\n");
    }
    laptop.tree.write("/proc/sys/kernel/random/boot_id", "first\n");
    laptop.tree.folder("/run/vmlaunch");
  }

  ResetResult reset(const std::vector<base::PciAddress>& devices,
                    const std::set<ResetRung>& allowed = {}) {
    std::vector<Resettable> functions;
    for (const base::PciAddress& device : devices) {
      functions.push_back(look_at_reset(kernel, device));
    }
    return reset_and_verify(kernel, functions, allowed);
  }

  [[nodiscard]] std::string methods(const std::string& address) const {
    return laptop.tree.tree().read(laptop.tree.device(address) + "/reset_method").value_or("");
  }

  /// From now on all bits of it read as set.
  void kill(const std::string& address) { kernel.set_config(address, std::string(64, '\xff')); }
};

// ---- what is expected, going by sysfs -----------------------------------------------------------

std::string outlook_of(const PciTree& tree,
                       const std::vector<base::PciAddress>& functions,
                       const std::set<base::PciAddress>& ours) {
  return to_string(reset_outlook(survey::look_at_pci(tree.tree()), functions, ours));
}

TEST_CASE("reset: how each kind of card can be reset is told from sysfs", "[reset]") {
  Laptop laptop;
  PciTree& tree = laptop.tree;
  CHECK(outlook_of(tree, {kNic}, {kNic}) == "reset of its own (flr)");
  tree.write(tree.device("0000:02:00.0") + "/reset_method", "pm bus\n");
  CHECK(outlook_of(tree, {kNic}, {kNic}) == "reset by sleep and waking (pm)");
  tree.write(tree.device("0000:02:00.0") + "/reset_method", "bus\n");
  CHECK(outlook_of(tree, {kNic}, {kNic}) == "reset by its bus, where it is alone");
  tree.remove(tree.device("0000:02:00.0") + "/reset_method");
  CHECK(outlook_of(tree, {kNic}, {kNic}) == "hot reset of its bus, all functions together");
  const base::PciAddress bus_master{0, 0, 0x1f, 4};
  CHECK(outlook_of(tree, {bus_master}, {bus_master}) == "no reset");
}

TEST_CASE("reset: a bus is reset for a card alone, and not with what stays with the host",
          "[reset]") {
  Laptop laptop;
  // Its first function lists "bus", since the kernel looked before it knew the second.
  CHECK(outlook_of(laptop.tree, {kGpu, kSound}, {kGpu, kSound}) ==
        "hot reset of its bus, all functions together");
  CHECK(outlook_of(laptop.tree, {kGpu}, {kGpu}) ==
        "no reset: a hot reset of the bus would also reset 0000:01:00.1 (driver "
        "snd_hda_intel)");
  laptop.tree.bind("0000:01:00.1", "");
  CHECK(outlook_of(laptop.tree, {kGpu}, {kGpu}).ends_with("0000:01:00.1 (no driver)"));
  // What is behind another bridge on that bus is reset with it too.
  laptop.tree.add("0000:02:01.0",
                  {.class_code = 0x060400, .driver = "pcieport", .bridge = "0000:00:1c.0"});
  laptop.tree.add("0000:03:00.0", {.driver = "nvme", .bridge = "0000:02:01.0"});
  laptop.tree.remove(laptop.tree.device("0000:02:00.0") + "/reset_method");
  CHECK(outlook_of(laptop.tree, {kNic}, {kNic}) ==
        "no reset: a hot reset of the bus would also reset 0000:02:01.0 (a "
        "bridge), 0000:03:00.0 (driver nvme)");
}

TEST_CASE("reset: a virtual function is reset by itself or not at all", "[reset]") {
  Laptop laptop;
  laptop.tree.add("0000:02:10.0", {.driver = "igbvf", .reset = "flr", .bridge = "0000:00:1c.0"});
  laptop.tree.link(laptop.tree.device("0000:02:10.0") + "/physfn", "../0000:02:00.0");
  const base::PciAddress virtual_nic{0, 2, 0x10, 0};
  CHECK(outlook_of(laptop.tree, {virtual_nic}, {virtual_nic}) == "reset of its own (flr)");
  laptop.tree.remove(laptop.tree.device("0000:02:10.0") + "/reset_method");
  CHECK(outlook_of(laptop.tree, {virtual_nic}, {virtual_nic}) == "no reset");
}

TEST_CASE("reset: cards that vendor-reset serves are known", "[reset]") {
  const auto served = [](std::uint16_t vendor, std::uint16_t device, std::uint32_t class_code) {
    survey::PciFunction function;
    function.vendor = vendor;
    function.device = device;
    function.class_code = class_code;
    return survey::has_vendor_reset(function);
  };
  CHECK(served(0x1002, 0x67df, 0x030000));        // RX 580
  CHECK(served(0x1002, 0x731f, 0x030000));        // RX 5700
  CHECK_FALSE(served(0x1002, 0x73bf, 0x030000));  // RX 6900
  CHECK_FALSE(served(0x1002, 0x67df, 0x040300));
  CHECK_FALSE(served(0x10de, 0x67df, 0x030000));
}

// ---- the ladder ---------------------------------------------------------------------------------

TEST_CASE("reset: the first method that works is enough, and the list is as it was", "[reset]") {
  Bound bound;
  const ResetResult result = bound.reset({kNic});
  CHECK(result.fault == "");
  CHECK(result.tried == Words{"0000:02:00.0 by flr: done"});
  CHECK(bound.kernel.resets() == Words{"0000:02:00.0 by flr"});
  CHECK(bound.methods("0000:02:00.0") == "flr pm bus");
}

TEST_CASE("reset: a method that fails with any error does not hide the next", "[reset]") {
  for (const int error : {EIO, ENOTTY, EAGAIN}) {
    Bound bound;
    bound.kernel.on_reset(
        [&](const std::string& what) { return what.ends_with("flr") ? error : 0; });
    CHECK(bound.reset({kNic}).fault == "");
    CHECK(bound.kernel.resets() == Words{"0000:02:00.0 by flr", "0000:02:00.0 by pm"});
    CHECK(bound.methods("0000:02:00.0") == "flr pm bus");
  }
}

TEST_CASE("reset: methods that are in another order are tried in that", "[reset]") {
  Bound bound;
  bound.laptop.tree.write(bound.laptop.tree.device("0000:02:00.0") + "/reset_method", "bus flr\n");
  bound.kernel.on_reset([](const std::string& what) { return what.ends_with("bus") ? EIO : 0; });
  CHECK(bound.reset({kNic}).fault == "");
  CHECK(bound.kernel.resets() == Words{"0000:02:00.0 by bus", "0000:02:00.0 by flr"});
  CHECK(bound.methods("0000:02:00.0") == "bus flr");
}

TEST_CASE("reset: a list that the kernel would not take back is left alone", "[reset]") {
  Bound bound;
  bound.kernel.refuse_methods("flr pm bus");
  bound.kernel.on_reset([](const std::string&) { return EIO; });
  static_cast<void>(bound.reset({kNic}));
  // Once by whatever the kernel does with the list, which is the bus at last.
  CHECK(bound.kernel.resets() == Words{"0000:02:00.0 by flr"});
  CHECK(bound.methods("0000:02:00.0") == "flr pm bus");
}

TEST_CASE("reset: a list that cannot be put back is named, and the rest goes on", "[reset]") {
  Bound bound;
  bound.kernel.on_reset([&](const std::string&) {
    bound.kernel.refuse_methods("flr pm bus");  // from now on
    return 0;
  });
  const ResetResult result = bound.reset({kNic});
  CHECK(result.fault == "");
  CHECK(result.lost ==
        "the reset methods of 0000:02:00.0 are \"flr\", were \"flr pm bus\", and cannot be put "
        "back: write /sys/bus/pci/devices/0000:02:00.0/reset_method: Invalid argument; type: echo "
        "default > /sys/bus/pci/devices/0000:02:00.0/reset_method");
}

TEST_CASE("reset: a card whose functions have no methods is reset with its bus", "[reset]") {
  Bound bound;
  bound.laptop.tree.remove(bound.laptop.tree.device("0000:01:00.0") + "/reset_method");
  CHECK(bound.reset({kGpu, kSound}).fault == "");
  CHECK(bound.kernel.resets() == Words{"0000:01:00.0 with its bus"});
}

TEST_CASE("reset: never with a bus on which somebody else has a device", "[reset]") {
  Bound bound;
  bound.laptop.tree.remove(bound.laptop.tree.device("0000:01:00.0") + "/reset_method");
  bound.kernel.set_vfio({kGpu, false, {kGpu, kSound}});
  const ResetResult result = bound.reset({kGpu});
  CHECK(bound.kernel.resets().empty());
  CHECK(result.fault == "");  // to have no reset is no fault
}

TEST_CASE("reset: what the host may feel is tried last, and only if it is allowed", "[reset]") {
  for (const std::set<ResetRung>& allowed :
       {std::set<ResetRung>{},
        std::set<ResetRung>{ResetRung::bridge},
        std::set<ResetRung>{ResetRung::rescan},
        std::set<ResetRung>{ResetRung::rescan, ResetRung::bridge}}) {
    Bound bound;
    bound.laptop.tree.write(bound.laptop.tree.device("0000:00:1c.0") + "/reset_subordinate", "");
    bound.kernel.on_reset(
        [](const std::string& what) { return what.starts_with("all below") ? 0 : EIO; });
    const ResetResult result = bound.reset({kNic}, allowed);
    CHECK(result.fault.empty() == !allowed.empty());
    Words expected = {"0000:02:00.0 by flr", "0000:02:00.0 by pm", "0000:02:00.0 by bus"};
    if (allowed.contains(ResetRung::bridge)) {
      expected.emplace_back("all below 0000:00:1c.0");
    }
    CHECK(bound.kernel.resets() == expected);
    CHECK(bound.laptop.tree.tree().link_name("/sys/bus/pci/devices/0000:02:00.0/driver") ==
          "vfio-pci");
  }
}

TEST_CASE("reset: a bridge is not reset above somebody else's device", "[reset]") {
  Bound bound;
  bound.laptop.tree.write(bound.laptop.tree.device("0000:00:01.0") + "/reset_subordinate", "");
  bound.kernel.on_reset([](const std::string&) { return EIO; });
  bound.kernel.set_vfio({kGpu, false, {kGpu, kSound}});
  CHECK_FALSE(bound.reset({kGpu}, {ResetRung::bridge}).fault.empty());
  CHECK(bound.kernel.resets() == Words{"0000:01:00.0 by bus"});
}

// ---- whether it works ---------------------------------------------------------------------------

TEST_CASE("reset: what is wrong with a function is told", "[reset]") {
  Bound bound;
  const auto fault = [&] { return find_fault(bound.kernel, {kGpu, kSound}, 0); };
  CHECK(fault() == "");
  bound.kill("0000:01:00.1");
  CHECK(fault() == "0000:01:00.1 does not answer: its configuration space reads as ff");
  bound.kernel.set_config("0000:01:00.1", "short");
  CHECK(fault() == "0000:01:00.1 does not answer: its configuration space cannot be read");
  bound.kernel.set_config("0000:01:00.1",
                          std::string("\xde\x10\x01\x00", 4) + std::string(60, '\0'));
  CHECK(fault() == "0000:01:00.1 says that it is 10de:0001, and was 10de:10f0");
  bound.kernel.clear_config("0000:01:00.1");
  CHECK(fault() == "");

  std::string header = bound.kernel.read_config(kGpu);
  header[0x13] = '\0';  // the first window's highest byte
  bound.kernel.set_config("0000:01:00.0", header);
  CHECK(fault() ==
        "0000:01:00.0 has lost its windows: BAR 0 is at 00000000, and was at a0000000; "
        "type: vmlaunch device rescan 0000:01:00.0");
  bound.kernel.clear_config("0000:01:00.0");
}

TEST_CASE("reset: a function that does not wake is told, and one that may sleep is not",
          "[reset]") {
  Bound bound;
  const std::string folder = bound.laptop.tree.device("0000:02:00.0");
  bound.laptop.tree.write(folder + "/power_state", "D3cold\n");
  CHECK(find_fault(bound.kernel, {kNic}, 0) ==
        "0000:02:00.0 is stuck in D3cold: it was told to wake, and did not");
  bound.laptop.tree.write(folder + "/power/control", "auto\n");
  CHECK(find_fault(bound.kernel, {kNic}, 0) == "");
  // In D3cold a device has no power to answer with.
  bound.kill("0000:02:00.0");
  CHECK(find_fault(bound.kernel, {kNic}, 0) ==
        "0000:02:00.0 does not answer: its configuration space reads as ff, and it is stuck in "
        "D3cold");
}

TEST_CASE("reset: a virtual function's ids read as ones, and that is no fault", "[reset]") {
  Bound bound;
  bound.laptop.tree.link(bound.laptop.tree.device("0000:02:00.0") + "/physfn",
                         "../../0000:00:1c.0");
  std::string header(64, '\0');
  header.replace(0, 4, "\xff\xff\xff\xff");
  header[4] = '\x06';
  bound.kernel.set_config("0000:02:00.0", header);
  CHECK(find_fault(bound.kernel, {kNic}, 0) == "");
  CHECK(bound.reset({kNic}).tried == Words{"0000:02:00.0 by flr: done"});
  bound.kill("0000:02:00.0");
  CHECK(find_fault(bound.kernel, {kNic}, 0).find("does not answer") != std::string::npos);
}

TEST_CASE("reset: what is refused to us is no failure of the device's", "[reset]") {
  for (const int error : {EPERM, EACCES, EBUSY}) {
    Bound bound;
    bound.laptop.tree.remove(bound.laptop.tree.device("0000:02:00.0") + "/reset_method");
    bound.laptop.tree.write(bound.laptop.tree.device("0000:00:1c.0") + "/reset_subordinate", "");
    bound.kernel.on_reset([&](const std::string&) { return error; });
    CHECK(bound.reset({kNic}, {ResetRung::bridge}).fault == "");
  }
}

TEST_CASE("reset: a card that is not found anew is at fault, and its bridge is tried before",
          "[reset]") {
  Bound bound;
  bound.laptop.tree.write(bound.laptop.tree.device("0000:00:1c.0") + "/reset_subordinate", "");
  bound.kernel.on_reset([](const std::string&) { return EIO; });
  bound.kernel.lose("0000:02:00.0");
  const ResetResult result = bound.reset({kNic}, {ResetRung::rescan, ResetRung::bridge});
  CHECK(bound.kernel.resets().back() == "all below 0000:00:1c.0");
  CHECK(result.fault == "0000:02:00.0 was not found again; type: echo 1 > /sys/bus/pci/rescan");
}

TEST_CASE("reset: of the kernel's words those count that name a fault, from then on", "[reset]") {
  Bound bound;
  bound.kernel.log("vfio-pci 0000:02:00.0: not ready 65535ms after FLR; giving up");
  bound.kernel.log("vfio-pci 0000:02:00.0: not ready 1023ms after FLR; waiting");
  bound.kernel.log("vfio-pci 0000:02:00.0: AER: Corrected error received");
  bound.kernel.log("vfio-pci 0000:01:00.0: Unable to change power state from D3cold to D0");
  CHECK(find_fault(bound.kernel, {kNic}, 1) == "");
  CHECK(find_fault(bound.kernel, {kNic}, 0) ==
        "0000:02:00.0 is at fault in the kernel's words: vfio-pci 0000:02:00.0: not ready 65535ms "
        "after FLR; giving up");
  CHECK(find_fault(bound.kernel, {kGpu}, 0).find("change power state") != std::string::npos);
}

TEST_CASE("reset: a function that does not answer is reset only by what does not ask it",
          "[reset]") {
  Bound bound;
  bound.kill("0000:02:00.0");
  const ResetResult result = bound.reset({kNic});
  // With its bus it has been reset by the last of its own.
  CHECK(bound.kernel.resets() == Words{"0000:02:00.0 by bus"});
  CHECK(result.fault == "0000:02:00.0 does not answer: its configuration space reads as ff");
  CHECK(bound.methods("0000:02:00.0") == "flr pm bus");
}

TEST_CASE("reset: vfio does not reset a function on its own while its bus is reset", "[reset]") {
  Bound bound;
  const std::string file = bound.laptop.tree.device("0000:02:00.0") + "/reset_method";
  bound.laptop.tree.write(file, "flr pm\n");
  std::string methods = "?";
  bound.kernel.on_reset([&](const std::string& what) {
    if (what.ends_with("with its bus")) {
      methods = bound.methods("0000:02:00.0");
      return 0;
    }
    return EIO;
  });
  CHECK(bound.reset({kNic}).fault == "");
  CHECK(methods == "");
  CHECK(bound.methods("0000:02:00.0") == "flr pm");
}

TEST_CASE("reset: a device that a reset leaves dead is brought back by the next way", "[reset]") {
  Bound bound;
  bound.kernel.on_reset([&](const std::string& what) {
    what.ends_with("flr") ? bound.kill("0000:02:00.0") : bound.kernel.clear_config("0000:02:00.0");
    return 0;
  });
  const ResetResult result = bound.reset({kNic});
  CHECK(result.fault == "");
  CHECK(bound.kernel.resets() == Words{"0000:02:00.0 by flr", "0000:02:00.0 by bus"});
}

// ---- the step -----------------------------------------------------------------------------------

std::vector<Step> nic_steps(const config::OnNoReset& on_no_reset = {}, bool force = false) {
  return {keep_awake(kNic),
          override_driver(kNic, "igb", "vfio-pci"),
          bind_driver(kNic, "igb", "vfio-pci"),
          reset_card({kNic}, on_no_reset, force)};
}

/// A host whose NIC goes to a guest; /run is there.
struct Whole {
  Laptop laptop;
  FakeKernel kernel{laptop.tree};
  std::optional<Journal> journal;

  Whole() {
    laptop.tree.write("/proc/sys/kernel/random/boot_id", "first\n");
    laptop.tree.folder("/run/vmlaunch");
    journal = laptop.journal();
  }
  [[nodiscard]] std::string driver() const {
    return laptop.tree.tree().link_name("/sys/bus/pci/devices/0000:02:00.0/driver").value_or("");
  }
};

TEST_CASE("reset: a card is reset after a guest has had it, and before the host has it",
          "[reset]") {
  Whole host;
  REQUIRE(start_all(nic_steps(), host.kernel, *host.journal));
  CHECK(host.kernel.resets().empty());
  std::string had;
  host.kernel.on_reset([&](const std::string&) {
    had = host.driver();
    return 0;
  });
  const Undone undone = undo_all(host.kernel, *host.journal);
  CHECK(undone.code == ExitCode::ended);
  CHECK(host.kernel.resets() == Words{"0000:02:00.0 by flr"});
  CHECK(had == "vfio-pci");
  CHECK(host.driver() == "igb");
}

TEST_CASE("reset: a card that no guest has had is only looked at", "[reset]") {
  Whole host;
  REQUIRE(apply_all(nic_steps(), host.kernel, *host.journal));
  CHECK(undo_all(host.kernel, *host.journal).code == ExitCode::ended);
  CHECK(host.kernel.resets().empty());
}

TEST_CASE("reset: one that does not come back is kept from everybody until the host boots",
          "[reset]") {
  Whole host;
  const auto before = vmlaunch::tests::snapshot(host.laptop.tree);
  REQUIRE(start_all(nic_steps(), host.kernel, *host.journal));
  host.kernel.on_reset([](const std::string&) { return EIO; });
  host.kernel.set_config("0000:02:00.0", std::string(64, '\xff'));
  const Undone undone = undo_all(host.kernel, *host.journal);
  CHECK(undone.code == ExitCode::needs_power_cycle);
  CHECK(undone.again);
  CHECK(undone.leftovers.front() ==
        "see that 0000:02:00.0 work: 0000:02:00.0 does not answer: its configuration space reads "
        "as ff; power the host off and on, or try again");
  CHECK(undone.leftovers.size() == 4);  // and the three that wait for it
  CHECK(host.driver() == "vfio-pci");

  // Another process, the same boot.
  FakeKernel other(host.laptop.tree);
  const Step again = reset_card({kNic}, {});
  CHECK(vmlaunch::tests::refusal([&] { again->check(other); }) ==
        "19: Cannot give it to a guest: 0000:02:00.0 did not come back from the guest of the VM "
        "vm: 0000:02:00.0 does not answer: its configuration space reads as ff; power the host off "
        "and on (a reboot may not help), or try again: vmlaunch recover vm; to start all the same: "
        "vmlaunch run --force-tainted FILE");
  CHECK_NOTHROW(reset_card({kNic}, {}, true)->check(other));
  // A start does not try again, since that could take minutes.
  CHECK(recover_vm(other, host.laptop.folders(), "vm")->code == ExitCode::needs_power_cycle);
  CHECK(other.resets().empty());
  // Whoever recovers does.
  CHECK(find_taints(other).at(kNic).vm == "vm");
  clear_taint(other, kNic);
  CHECK(recover_vm(other, host.laptop.folders(), "vm")->code == ExitCode::ended);
  CHECK(other.resets() == Words{"0000:02:00.0 by flr"});
  CHECK(host.driver() == "igb");
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(host.laptop.tree)) == "");
}

TEST_CASE("reset: a taint does not survive the boot", "[reset]") {
  Whole host;
  set_taint(host.kernel, kNic, {"vm", "something"});
  REQUIRE(find_taint(host.kernel, kNic));
  host.laptop.tree.write("/proc/sys/kernel/random/boot_id", "second\n");
  CHECK(find_taint(host.kernel, kNic) == std::nullopt);
}

TEST_CASE("reset: a taint goes when the card has been reset and works", "[reset]") {
  Whole host;
  set_taint(host.kernel, kNic, {"other", "something"});
  CHECK_THROWS_AS(nic_steps().back()->check(host.kernel), Failure);
  REQUIRE(start_all(nic_steps({}, true), host.kernel, *host.journal));
  CHECK(undo_all(host.kernel, *host.journal).code == ExitCode::ended);
  CHECK(find_taint(host.kernel, kNic) == std::nullopt);
  CHECK(host.driver() == "igb");
}

TEST_CASE("reset: a record of a taint that cannot be read is one", "[reset]") {
  Whole host;
  host.laptop.tree.write("/run/vmlaunch/taints/0000:02:00.0", "{\n");
  REQUIRE(find_taint(host.kernel, kNic));
  CHECK(find_taint(host.kernel, kNic)->fault ==
        "its record /run/vmlaunch/taints/0000:02:00.0 cannot be read");
}

TEST_CASE("reset: a dead card is reset before a guest gets it, or is refused", "[reset]") {
  for (const bool comes_back : {true, false}) {
    Whole host;
    host.kernel.set_config("0000:02:00.0", std::string(64, '\xff'));
    host.kernel.on_reset([&](const std::string&) {
      if (comes_back) {
        host.kernel.clear_config("0000:02:00.0");
      }
      return 0;
    });
    CHECK(apply_all(nic_steps(), host.kernel, *host.journal) == comes_back);
    CHECK(undo_all(host.kernel, *host.journal).code ==
          (comes_back ? ExitCode::ended : ExitCode::needs_power_cycle));
  }
}

TEST_CASE("reset: a dead card is given to a guest all the same, if somebody insists", "[reset]") {
  Whole host;
  host.kernel.set_config("0000:02:00.0", std::string(64, '\xff'));
  CHECK(apply_all(nic_steps({}, true), host.kernel, *host.journal));
}

TEST_CASE("reset: a card that the host's driver has by now is not reset under it", "[reset]") {
  Whole host;
  REQUIRE(start_all(nic_steps(), host.kernel, *host.journal));
  host.laptop.tree.bind("0000:02:00.0", "igb");
  const Undone undone = undo_all(host.kernel, *host.journal);
  CHECK(host.kernel.resets().empty());
  CHECK_FALSE(undone.again);
  CHECK(undone.leftovers.front() ==
        "changed by somebody else meanwhile, and left: 0000:02:00.0 has igb by now, and is not "
        "reset under it");
  CHECK(host.driver() == "igb");
}

TEST_CASE("reset: a card that another program has open is neither given, nor reset", "[reset]") {
  Whole host;
  host.kernel.open_group("12");
  CHECK_FALSE(apply_all(nic_steps(), host.kernel, *host.journal));
  host.kernel.open_group("");
  CHECK(undo_all(host.kernel, *host.journal).code == ExitCode::ended);
  Journal second = host.laptop.journal("second");
  REQUIRE(start_all(nic_steps(), host.kernel, second));
  host.kernel.open_group("12");
  const Undone undone = undo_all(host.kernel, second);
  CHECK(undone.code == ExitCode::host_not_restored);
  CHECK(undone.again);
  CHECK(host.kernel.resets().empty());
  CHECK(find_taint(host.kernel, kNic) == std::nullopt);
  CHECK(host.driver() == "vfio-pci");
}

TEST_CASE("reset: one that does not come to an end keeps the card from everybody", "[reset]") {
  Whole host;
  REQUIRE(start_all(nic_steps(), host.kernel, *host.journal));
  host.kernel.fail_at(1, FakeKernel::Fault::stuck);
  CHECK(undo_all(host.kernel, *host.journal).code == ExitCode::stuck);
  REQUIRE(find_taint(host.kernel, kNic));
  CHECK(find_taint(host.kernel, kNic)->fault == "its reset has not come to an end");
  CHECK_THROWS_AS(nic_steps().back()->check(host.kernel), Failure);
  // That is no reason not to try again: nothing is known to be wrong.
  FakeKernel other(host.laptop.tree);
  CHECK(recover_vm(other, host.laptop.folders(), "vm")->code == ExitCode::ended);
  CHECK(find_taint(other, kNic) == std::nullopt);
}

TEST_CASE("reset: a card that was removed to be found anew comes back whoever died meanwhile",
          "[reset]") {
  Whole host;
  const std::string folder = "/sys/bus/pci/devices/0000:02:00.0";
  REQUIRE(start_all(nic_steps({false, {ResetRung::rescan}}), host.kernel, *host.journal));
  host.kernel.write_to_driver(folder + "/remove", "1");
  REQUIRE_FALSE(host.laptop.tree.tree().exists(folder));
  host.journal.reset();
  CHECK(recover_vm(host.kernel, host.laptop.folders(), "vm")->code == ExitCode::ended);
  CHECK(host.driver() == "igb");
}

TEST_CASE("reset: a list that the kernel takes no more becomes the kernel's own", "[reset]") {
  Whole host;
  std::vector<Step> steps = nic_steps();
  steps.insert(steps.end() - 1, set_reset_method(kNic));
  REQUIRE(start_all(steps, host.kernel, *host.journal));
  host.kernel.refuse_methods("flr pm bus");
  CHECK(undo_all(host.kernel, *host.journal).code == ExitCode::ended);
  CHECK(host.laptop.tree.tree().read(host.laptop.tree.device("0000:02:00.0") + "/reset_method") ==
        "default");
  CHECK(host.driver() == "igb");
}

TEST_CASE("reset: a card without a reset is refused where the config says so", "[reset]") {
  Whole host;
  host.laptop.tree.remove(host.laptop.tree.device("0000:02:00.0") + "/reset_method");
  host.kernel.set_vfio({kNic, false, {}});
  CHECK(apply_all(nic_steps(), host.kernel, *host.journal));
  CHECK(undo_all(host.kernel, *host.journal).code == ExitCode::ended);
  Journal second = host.laptop.journal("second");
  CHECK_FALSE(apply_all(nic_steps({true, {}}), host.kernel, second));
  CHECK(undo_all(host.kernel, second).code == ExitCode::ended);
  CHECK(host.driver() == "igb");
}

TEST_CASE("reset: a card is reset in the way of its own, and its list is as it was", "[reset]") {
  Whole host;
  std::vector<Step> steps = nic_steps();
  steps.insert(steps.end() - 1, set_reset_method(kNic));
  const std::string file = host.laptop.tree.device("0000:02:00.0") + "/reset_method";
  REQUIRE(start_all(steps, host.kernel, *host.journal));
  CHECK(host.laptop.tree.tree().read(file) == "device_specific");
  CHECK(undo_all(host.kernel, *host.journal).code == ExitCode::ended);
  CHECK(host.kernel.resets() == Words{"0000:02:00.0 by device_specific"});
  CHECK(host.laptop.tree.tree().read(file) == "flr pm bus");
  // A kernel that knows no such way is no reason not to start.
  Journal second = host.laptop.journal("second");
  host.kernel.refuse_methods("device_specific");
  REQUIRE(start_all(steps, host.kernel, second));
  CHECK(undo_all(host.kernel, second).code == ExitCode::ended);
  CHECK(host.kernel.resets().back() == "0000:02:00.0 by flr");
}

TEST_CASE("reset: while a reset is stuck, nothing else is done to any function of the card",
          "[reset]") {
  Laptop laptop;
  laptop.tree.folder("/run/vmlaunch");
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  std::vector<Step> steps;
  for (const auto& [device, driver] :
       {std::pair(kGpu, "nouveau"), std::pair(kSound, "snd_hda_intel")}) {
    steps.push_back(override_driver(device, driver, "vfio-pci"));
    steps.push_back(bind_driver(device, driver, "vfio-pci"));
  }
  steps.push_back(reset_card({kGpu, kSound}, {}));
  REQUIRE(start_all(steps, kernel, journal));
  kernel.fail_at(1, FakeKernel::Fault::stuck);
  const Undone undone = undo_all(kernel, journal);
  CHECK(undone.code == ExitCode::stuck);
  CHECK(undone.again);
  CHECK(undone.leftovers.size() == 5);
  for (const char* address : {"0000:01:00.0", "0000:01:00.1"}) {
    CHECK(laptop.tree.tree().link_name("/sys/bus/pci/devices/" + std::string(address) +
                                       "/driver") == "vfio-pci");
  }
}

TEST_CASE("reset: a QEMU that is stuck keeps its devices, and the host gets all else", "[reset]") {
  Whole host;
  std::vector<Step> steps = nic_steps();
  steps.push_back(set_tunable(Tunable::statistics));
  steps.push_back(start_qemu(false));
  Context context = steps::tests::context();
  context.start = [](const auto& born) { born(::getpid()); };
  for (const Step& step : steps) {
    apply(step, host.kernel, context, *host.journal);
  }
  const Undone undone = undo_all(host.kernel, *host.journal, {"QEMU"});
  CHECK(undone.code == ExitCode::stuck);
  CHECK(undone.again);
  CHECK(host.driver() == "vfio-pci");
  CHECK(host.laptop.tree.tree().read("/proc/sys/vm/stat_interval") == "1");
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
