#include "launcher/plan/accel.hpp"

#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::plan {

namespace {

/// Why KVM cannot be used, and the command that would help.
struct Obstacle {
  std::string reason;
  std::string next;
};

constexpr const char* kLoadModule =
    "modprobe kvm_intel (or kvm_amd), with virtualisation enabled in the firmware";

std::optional<Obstacle> find_obstacle(const survey::Kvm& kvm, bool privileged) {
  if (!kvm.node) {
    return Obstacle{"there is no /dev/kvm", kLoadModule};
  }
  if (!kvm.vendor_module && !kvm.pvm_module) {
    return Obstacle{"neither kvm_intel nor kvm_amd is loaded", kLoadModule};
  }
  if (!privileged && !kvm.usable_by_caller) {
    return Obstacle{"QEMU's user may not open /dev/kvm",
                    kvm.group.empty()
                        ? "ls -l /dev/kvm (no group may open it)"
                        : "sudo adduser \"$USER\" " + kvm.group + ", then log in again"};
  }
  return std::nullopt;
}

/// There a toy guest runs, but Linux hangs early in its boot.
bool is_pvm_only(const survey::Kvm& kvm) {
  return kvm.pvm_module && !kvm.vendor_module;
}

constexpr const char* kPvmOnly =
    "this host has KVM only for PVM guests (module kvm_pvm without kvm_intel or kvm_amd)";

}  // namespace

AccelChoice choose_accel(config::Accel wanted, const survey::Kvm& kvm, bool privileged) {
  if (wanted == config::Accel::tcg) {
    return {};
  }
  const std::string slow = ": the guest runs in software (TCG), many times slower";
  if (is_pvm_only(kvm) && wanted == config::Accel::automatic) {
    return {false, kPvmOnly + slow};
  }
  const std::optional<Obstacle> obstacle = find_obstacle(kvm, privileged);
  if (wanted == config::Accel::kvm && obstacle) {
    throw Failure(ExitCode::preflight,
                  "Cannot use KVM, which the config asks for: " + obstacle->reason +
                      "; type: " + obstacle->next);
  }
  if (obstacle) {
    return {false, obstacle->reason + slow + "; to change that: " + obstacle->next};
  }
  AccelChoice choice{true, {}};
  if (is_pvm_only(kvm)) {
    choice.warning = std::string(kPvmOnly) + ": an ordinary guest may hang early in its boot";
  }
  return choice;
}

}  // namespace vmlaunch::launcher::plan
