#include "launcher/plan/accel.hpp"

#include <optional>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using config::Accel;

constexpr gid_t kKvmGroup = 106;
constexpr uid_t kQemu = 1000;
constexpr std::optional<uid_t> kNobody = std::nullopt;

enum class Modules { none, vendor, pvm, both };

/// A node of root's with this mode and group.
survey::Kvm node(unsigned mode, gid_t gid, bool usable, Modules modules = Modules::vendor) {
  survey::Kvm kvm;
  kvm.node = true;
  kvm.gid = gid;
  kvm.mode = mode;
  kvm.usable_by_caller = usable;
  kvm.vendor_module = modules == Modules::vendor || modules == Modules::both;
  kvm.pvm_module = modules == Modules::pvm || modules == Modules::both;
  return kvm;
}

survey::Kvm no_node(Modules modules = Modules::vendor) {
  survey::Kvm kvm = node(0, 0, false, modules);
  kvm.node = false;
  return kvm;
}

survey::Kvm owned(survey::Kvm kvm, uid_t uid) {
  kvm.uid = uid;
  return kvm;
}

/// "kvm" or "tcg", the group that QEMU gets, the warning; or what was refused.
std::string choose(Accel wanted,
                   const survey::Kvm& kvm,
                   bool privileged,
                   std::optional<uid_t> qemu_uid) {
  AccelChoice choice;
  const std::string refused =
      tests::refusal([&] { choice = choose_accel(wanted, kvm, privileged, qemu_uid); });
  if (refused != "nothing") {
    return refused;
  }
  return std::string(choice.kvm ? "kvm" : "tcg") +
         (choice.node_group ? ", group " + std::to_string(*choice.node_group) : "") +
         (choice.warning ? "; " + *choice.warning : "");
}

const std::string kInsist = "10: Cannot use KVM, which the config asks for: ";
const std::string kSlow = ": the guest runs in software (TCG), many times slower";
const std::string kChange = kSlow + "; to change that: ";
const std::string kNoNode = "there is no /dev/kvm";
const std::string kLoad =
    "modprobe kvm_intel (or kvm_amd), with virtualisation enabled in the firmware";
const std::string kClosed = "QEMU's user may not open /dev/kvm";
const std::string kChgrp = "chgrp kvm /dev/kvm && chmod 0660 /dev/kvm";
const std::string kAdduser = "sudo adduser \"$USER\" kvm, then log in again";
const std::string kPvmOnly =
    "this host has KVM only for PVM guests (module kvm_pvm without kvm_intel or kvm_amd)";
const std::string kPvmHangs = kPvmOnly + ": an ordinary guest may hang early in its boot";

struct Row {
  const char* name;
  survey::Kvm kvm;
  bool privileged;
  std::optional<uid_t> qemu;
  std::string automatic;
  std::string insisting;
};

void check_row(const Row& row) {
  INFO(row.name);
  CHECK(choose(Accel::automatic, row.kvm, row.privileged, row.qemu) == row.automatic);
  CHECK(choose(Accel::kvm, row.kvm, row.privileged, row.qemu) == row.insisting);
  CHECK(choose(Accel::tcg, row.kvm, row.privileged, row.qemu) == "tcg");
}

TEST_CASE("accelerator: without a node there is no KVM for anybody", "[plan]") {
  for (const bool privileged : {false, true}) {
    check_row({privileged ? "root" : "user",
               no_node(),
               privileged,
               kQemu,
               "tcg; " + kNoNode + kChange + kLoad,
               kInsist + kNoNode + "; type: " + kLoad});
  }
}

TEST_CASE("accelerator: a user has KVM if the user may open the node, whatever its mode",
          "[plan]") {
  const std::string closed = "tcg; " + kClosed + kChange + kAdduser;
  const std::string refused = kInsist + kClosed + "; type: " + kAdduser;
  for (const Row& row : {
           Row{"0600, closed", node(0600, 0, false), false, kQemu, closed, refused},
           Row{"0660, closed", node(0660, kKvmGroup, false), false, kQemu, closed, refused},
           Row{"0666, closed by an LSM", node(0666, 0, false), false, kQemu, closed, refused},
           Row{"0600, by ACL", node(0600, 0, true), false, kQemu, "kvm", "kvm"},
           Row{"0660, a member", node(0660, kKvmGroup, true), false, kQemu, "kvm", "kvm"},
           Row{"0666", node(0666, 0, true), false, kQemu, "kvm", "kvm"},
       }) {
    check_row(row);
  }
}

TEST_CASE("accelerator: as root the node's mode decides, and its group is given where it is needed",
          "[plan]") {
  const std::string closed = "tcg; " + kClosed + kChange + kChgrp;
  const std::string refused = kInsist + kClosed + "; type: " + kChgrp;
  const std::string group = "kvm, group 106";
  const survey::Kvm by_group = node(0660, kKvmGroup, true);
  const survey::Kvm own = owned(node(0600, 0, true), kQemu);
  const survey::Kvm own_or_group = owned(by_group, kQemu);
  for (const Row& row : {
           Row{"0600, unused uid", node(0600, 0, true), true, kNobody, closed, refused},
           Row{"0600, user", node(0600, 0, true), true, kQemu, closed, refused},
           Row{"0600, owner", own, true, kQemu, "kvm", "kvm"},
           Row{"0600, not the owner", own, true, kNobody, closed, refused},
           Row{"0400, owner", owned(node(0400, 0, true), kQemu), true, kQemu, closed, refused},
           Row{"0660, unused uid", by_group, true, kNobody, group, group},
           Row{"0660, user", by_group, true, kQemu, group, group},
           Row{"0660, owner", own_or_group, true, kQemu, "kvm", "kvm"},
           Row{"0666, unused uid", node(0666, kKvmGroup, true), true, kNobody, "kvm", "kvm"},
           Row{"0666, user", node(0666, kKvmGroup, true), true, kQemu, "kvm", "kvm"},
           Row{"0640", node(0640, kKvmGroup, true), true, kQemu, closed, refused},
           Row{"0604", node(0604, kKvmGroup, true), true, kQemu, closed, refused},
           Row{"0664", node(0664, kKvmGroup, true), true, kQemu, group, group},
       }) {
    check_row(row);
  }
}

TEST_CASE("accelerator: root's own group is never given", "[plan]") {
  check_row({"0660 root:root",
             node(0660, 0, true),
             true,
             kQemu,
             "tcg; " + kClosed + kChange + kChgrp,
             kInsist + kClosed + "; type: " + kChgrp});
}

TEST_CASE("accelerator: KVM for PVM guests only is not taken unasked", "[plan]") {
  const std::string by_pvm = "tcg; " + kPvmOnly + kSlow;
  for (const Row& row : {
           Row{"user",
               node(0666, 0, true, Modules::pvm),
               false,
               kQemu,
               by_pvm,
               "kvm; " + kPvmHangs},
           Row{"root",
               node(0660, kKvmGroup, true, Modules::pvm),
               true,
               kNobody,
               by_pvm,
               "kvm, group 106; " + kPvmHangs},
           Row{"closed",
               node(0600, 0, false, Modules::pvm),
               false,
               kQemu,
               by_pvm,
               kInsist + kClosed + "; type: " + kAdduser},
           Row{"without a node",
               no_node(Modules::pvm),
               true,
               kQemu,
               by_pvm,
               kInsist + kNoNode + "; type: " + kLoad},
           Row{"beside the vendor's",
               node(0666, 0, true, Modules::both),
               false,
               kQemu,
               "kvm",
               "kvm"},
       }) {
    check_row(row);
  }
}

TEST_CASE("accelerator: a node without any module behind it is no KVM", "[plan]") {
  // Made at boot for kvm.ko alone, also on a processor without virtualisation.
  const std::string reason = "neither kvm_intel nor kvm_amd is loaded";
  for (const bool privileged : {false, true}) {
    check_row({privileged ? "root" : "user",
               node(0666, 0, true, Modules::none),
               privileged,
               kQemu,
               "tcg; " + reason + kChange + kLoad,
               kInsist + reason + "; type: " + kLoad});
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
