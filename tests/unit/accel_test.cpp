#include "launcher/plan/accel.hpp"

#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using config::Accel;

enum class Modules { none, vendor, pvm, both };

/// A host with a node that the caller may open, or not.
survey::Kvm node(bool usable, Modules modules = Modules::vendor) {
  survey::Kvm kvm;
  kvm.node = true;
  kvm.usable_by_caller = usable;
  kvm.group = "virt";
  kvm.vendor_module = modules == Modules::vendor || modules == Modules::both;
  kvm.pvm_module = modules == Modules::pvm || modules == Modules::both;
  return kvm;
}

survey::Kvm no_node(Modules modules = Modules::vendor) {
  survey::Kvm kvm = node(false, modules);
  kvm.node = false;
  return kvm;
}

/// "kvm" or "tcg", and the warning; or what was refused.
std::string choose(Accel wanted, const survey::Kvm& kvm, bool privileged) {
  AccelChoice choice;
  const std::string refused =
      tests::refusal([&] { choice = choose_accel(wanted, kvm, privileged); });
  if (refused != "nothing") {
    return refused;
  }
  return std::string(choice.kvm ? "kvm" : "tcg") + (choice.warning ? "; " + *choice.warning : "");
}

const std::string kInsist = "10: Cannot use KVM, which the config asks for: ";
const std::string kSlow = ": the guest runs in software (TCG), many times slower";
const std::string kChange = kSlow + "; to change that: ";
const std::string kNoNode = "there is no /dev/kvm";
const std::string kLoad =
    "modprobe kvm_intel (or kvm_amd), with virtualisation enabled in the firmware";
const std::string kClosed = "QEMU's user may not open /dev/kvm";
const std::string kAdduser = "sudo adduser \"$USER\" virt, then log in again";
const std::string kPvmOnly =
    "this host has KVM only for PVM guests (module kvm_pvm without kvm_intel or kvm_amd)";
const std::string kPvmHangs = kPvmOnly + ": an ordinary guest may hang early in its boot";

struct Row {
  const char* name;
  survey::Kvm kvm;
  bool privileged;
  std::string automatic;
  std::string insisting;
};

void check_row(const Row& row) {
  INFO(row.name);
  CHECK(choose(Accel::automatic, row.kvm, row.privileged) == row.automatic);
  CHECK(choose(Accel::kvm, row.kvm, row.privileged) == row.insisting);
  CHECK(choose(Accel::tcg, row.kvm, row.privileged) == "tcg");
}

TEST_CASE("accelerator: without a node there is no KVM for anybody", "[plan]") {
  for (const bool privileged : {false, true}) {
    check_row({privileged ? "root" : "user",
               no_node(),
               privileged,
               "tcg; " + kNoNode + kChange + kLoad,
               kInsist + kNoNode + "; type: " + kLoad});
  }
}

TEST_CASE("accelerator: a user has KVM if the user may open the node", "[plan]") {
  check_row({"closed",
             node(false),
             false,
             "tcg; " + kClosed + kChange + kAdduser,
             kInsist + kClosed + "; type: " + kAdduser});
  check_row({"open", node(true), false, "kvm", "kvm"});
}

TEST_CASE("accelerator: as root QEMU has KVM whoever may open the host's node", "[plan]") {
  check_row({"closed", node(false), true, "kvm", "kvm"});
  check_row({"open", node(true), true, "kvm", "kvm"});
}

TEST_CASE("accelerator: KVM for PVM guests only is not taken unasked", "[plan]") {
  const std::string by_pvm = "tcg; " + kPvmOnly + kSlow;
  for (const Row& row : {
           Row{"user", node(true, Modules::pvm), false, by_pvm, "kvm; " + kPvmHangs},
           Row{"root", node(false, Modules::pvm), true, by_pvm, "kvm; " + kPvmHangs},
           Row{"closed",
               node(false, Modules::pvm),
               false,
               by_pvm,
               kInsist + kClosed + "; type: " + kAdduser},
           Row{"without a node",
               no_node(Modules::pvm),
               true,
               by_pvm,
               kInsist + kNoNode + "; type: " + kLoad},
           Row{"beside the vendor's", node(true, Modules::both), false, "kvm", "kvm"},
       }) {
    check_row(row);
  }
}

TEST_CASE("accelerator: of a node that no group may open its rights are to be looked at",
          "[plan]") {
  survey::Kvm kvm = node(false);
  kvm.group = "";
  CHECK(choose(Accel::kvm, kvm, false) ==
        kInsist + kClosed + "; type: ls -l /dev/kvm (no group may open it)");
}

TEST_CASE("accelerator: a node without any module behind it is no KVM", "[plan]") {
  // Made at boot for kvm.ko alone, also on a processor without virtualisation.
  const std::string reason = "neither kvm_intel nor kvm_amd is loaded";
  for (const bool privileged : {false, true}) {
    check_row({privileged ? "root" : "user",
               node(true, Modules::none),
               privileged,
               "tcg; " + reason + kChange + kLoad,
               kInsist + reason + "; type: " + kLoad});
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
