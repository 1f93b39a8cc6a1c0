#include "launcher/plan/plan.hpp"

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/accel.hpp"
#include "launcher/plan/host_steps.hpp"
#include "launcher/plan/qemu_args.hpp"
#include "sandbox/policy.hpp"

namespace vmlaunch::launcher::plan {

namespace {

/// Who QEMU is. A config never has more rights than its owner.
QemuUser choose_user(const config::VmSpec& spec,
                     const survey::Survey& survey,
                     const Identity& identity,
                     Authority authority) {
  const User& self = identity.user;
  const std::optional<User>& wanted = survey.run_as;
  const bool other = wanted && wanted->credentials.uid != self.credentials.uid;
  if (!identity.privileged) {
    if (other) {
      throw Failure(ExitCode::preflight,
                    "Cannot run QEMU as " + wanted->name +
                        ", which the config's run_as asks for, without root; "
                        "type: sudo vmlaunch …");
    }
    return {self.name, self.credentials};
  }
  if (other && authority != Authority::root) {
    throw Failure(ExitCode::preflight,
                  "Cannot run QEMU as " + wanted->name + ": a config of " + self.name +
                      "'s may only name its owner in run_as; let root own it: chown root " +
                      base::shell_quote(spec.file));
  }
  if (wanted && wanted->credentials.uid == 0) {
    throw Failure(ExitCode::preflight, "Cannot run QEMU as root: name another user in run_as");
  }
  if (wanted || identity.invoker) {
    const User& user = wanted ? *wanted : self;
    // No supplementary groups: what QEMU may open is said by descriptor.
    return {user.name, sandbox::Credentials{user.credentials.uid, user.credentials.gid, {}}};
  }
  return {"a uid of its own", std::nullopt};
}

void check_extra_args(const config::VmSpec& spec, const Identity& identity, Authority authority) {
  if (!spec.extra_args.empty() && identity.privileged && authority != Authority::root) {
    throw Failure(ExitCode::preflight,
                  "Cannot use qemu.extra_args of a config of " + identity.user.name +
                      "'s in a run as root; let root own it: chown root " +
                      base::shell_quote(spec.file));
  }
}

/// Its server, and the right to it, are of whoever started the run.
void check_window(const config::VmSpec& spec, const Identity& identity, const QemuUser& user) {
  const bool is_own = user.credentials && user.credentials->uid == identity.user.credentials.uid;
  if (spec.display.is_window() && (!identity.invoker || !is_own)) {
    throw Failure(ExitCode::preflight,
                  "Cannot show a window: QEMU runs as " + user.name +
                      ", and the desktop is another user's; take \"display\": {\"spice\": "
                      "\"127.0.0.1:5930\"}, or let its user start the run");
  }
}

Deadlines choose_deadlines(const config::VmSpec& spec) {
  Deadlines deadlines;
  // QEMU answers only once its memory and devices are there; huge pages are all cleared before.
  const auto gigabytes = static_cast<std::int64_t>(spec.memory.size.bytes / base::kGiB) *
                         (spec.memory.hugepages ? 5 : 1);
  deadlines.handshake += std::chrono::seconds(gigabytes + 2 * std::int64_t(spec.disks.size()) +
                                              10 * std::int64_t(spec.pci.size()));
  deadlines.powerdown = spec.stop_timeout;
  return deadlines;
}

/// What QEMU opens by name; everything else it gets by descriptor.
Dev dev_of(const config::VmSpec& spec, const Plan& plan) {
  Dev dev;
  if (plan.accel == "kvm") {
    dev.nodes.emplace_back("kvm");
  }
  if (!plan.passthrough.slots.empty() || spec.hotplug.contains(config::Hotplug::pci)) {
    dev.nodes.emplace_back("vfio/vfio");
  }
  for (const auto& slot : plan.passthrough.slots) {
    dev.devices.insert(dev.devices.end(), slot.begin(), slot.end());
  }
  for (const config::VmSpec::Usb& entry : spec.usb) {
    dev.usb.push_back(entry.device);
  }
  return dev;
}

}  // namespace

sandbox::Filter filter_of(const Calls& calls) {
  return {sandbox::own_policy(),
          {calls.sections.begin(), calls.sections.end()},
          calls.mode == config::Sandbox::log ? sandbox::Filter::Mode::log
                                             : sandbox::Filter::Mode::enforce};
}

Plan make_plan(const config::VmSpec& spec,
               const survey::Survey& survey,
               const Identity& identity,
               Authority authority) {
  check_extra_args(spec, identity, authority);
  Plan plan;
  plan.name = spec.name;
  plan.deadlines = choose_deadlines(spec);
  plan.restarts = spec.on_reboot == config::OnReboot::restart;
  plan.qemu.binary = spec.qemu_binary;
  plan.qemu.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"};
  plan.qemu.user = choose_user(spec, survey, identity, authority);
  check_window(spec, identity, plan.qemu.user);
  const AccelChoice accel = choose_accel(spec.accel, survey.kvm, identity.privileged);
  if (accel.warning) {
    plan.warnings.push_back(*accel.warning);
  }
  plan.accel = accel.kvm ? "kvm" : "tcg";
  add_host_steps(spec, survey, identity, plan);
  plan.qemu.root.user_namespace = !identity.privileged;
  if (identity.privileged || spec.sandbox != config::Sandbox::off) {
    plan.qemu.dev = dev_of(spec, plan);
  }
  add_qemu_arguments(spec, survey, accel.kvm, plan);
  return plan;
}

}  // namespace vmlaunch::launcher::plan
