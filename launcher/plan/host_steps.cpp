#include "launcher/plan/host_steps.hpp"

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/network.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::plan {

namespace {

/// What QEMU maps for itself beside the guest's memory when it is pinned for devices: registers of
/// the devices, firmware (the figure that libvirt uses too).
constexpr std::uint64_t kMemlockMargin = base::kGiB;

template <typename Visit>
void for_each_endpoint(const Passthrough& passthrough, Visit visit) {
  for (const Group& group : passthrough.groups) {
    for (const GroupMember& member : group.members) {
      if (member.verdict != Verdict::bridge) {
        visit(member);
      }
    }
  }
}

template <typename Visit>
void for_each_given_group(const Passthrough& passthrough, Visit visit) {
  for (const Group& group : passthrough.groups) {
    if (group.given()) {
      visit(group.number);
    }
  }
}

/// Cheapest to fail first; what takes a device from the host last.
void add_device_steps(Plan& plan) {
  std::vector<steps::Step> reserve;
  std::vector<steps::Step> bind;
  std::vector<steps::Step> awake;
  for_each_endpoint(plan.passthrough, [&](const GroupMember& member) {
    awake.push_back(steps::keep_awake(member.address));
    if (member.verdict == Verdict::must_bind) {
      reserve.push_back(steps::override_driver(member.address, member.driver));
      bind.push_back(steps::bind_driver(member.address, member.driver));
    }
  });
  if (!bind.empty()) {
    plan.steps.push_back(steps::load_vfio());
  }
  for (const auto* list : {&awake, &reserve, &bind}) {
    plan.steps.insert(plan.steps.end(), list->begin(), list->end());
  }
}

std::string lacks_node(const std::string& node) {
  return "Cannot open " + node + "; type: sudo chown $USER " + node + ", or: sudo vmlaunch …";
}

/// Without root a run takes what somebody prepared: bound, with a node and a limit of the user's.
void require_prepared(const survey::Survey& survey, const Plan& plan) {
  std::vector<std::string> problems;
  for_each_endpoint(plan.passthrough, [&](const GroupMember& member) {
    if (member.verdict == Verdict::must_bind) {
      problems.push_back("Cannot bind " + base::to_string(member.address) +
                         " to vfio-pci without root; type: sudo vmlaunch …");
    }
  });
  for_each_given_group(plan.passthrough, [&](unsigned group) {
    if (problems.empty() && !survey.open_groups.contains(group)) {
      problems.push_back(lacks_node("/dev/vfio/" + std::to_string(group)));
    }
  });
  if (problems.empty() && survey.memlock_limit < plan.qemu.memlock->bytes) {
    problems.push_back(
        "Cannot lock " + base::to_string(*plan.qemu.memlock) +
        " of memory for devices: the limit is " +
        base::to_string(base::ByteSize{survey.memlock_limit}) +
        "; raise \"memlock\" in /etc/security/limits.conf, or type: sudo vmlaunch …");
  }
  if (!problems.empty()) {
    throw Failure(ExitCode::preflight, base::join(problems, "\n"));
  }
}

}  // namespace

void add_host_steps(const config::VmSpec& spec,
                    const survey::Survey& survey,
                    const Identity& identity,
                    Plan& plan) {
  if (survey.cgroup) {
    plan.steps.push_back(steps::make_cgroup(spec.name));
  } else {
    plan.warnings.emplace_back(
        "no cgroup2 folder may be written here: QEMU is held by its process number alone");
  }
  add_network_steps(spec, survey, identity, plan);
  plan.passthrough = choose_devices(spec.pci, survey.pci);
  if (plan.passthrough.slots.empty()) {
    return;
  }
  plan.qemu.memlock = base::ByteSize{spec.memory.bytes + kMemlockMargin};
  if (identity.privileged) {
    add_device_steps(plan);
  } else {
    require_prepared(survey, plan);
  }
}

}  // namespace vmlaunch::launcher::plan
