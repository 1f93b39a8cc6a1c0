#include "launcher/plan/host_steps.hpp"

#include <algorithm>
#include <set>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/desktop.hpp"
#include "launcher/plan/network.hpp"
#include "launcher/plan/usb.hpp"
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

/// Before cards are bound. The host's driver has each again for a moment, and its framebuffer may
/// get the console.
void add_rescan_steps(Plan& plan) {
  const auto& cards = plan.passthrough.rescanned;
  const bool console =
      std::find(plan.steps.begin(), plan.steps.end(), steps::release_console()) != plan.steps.end();
  for_each_endpoint(plan.passthrough, [&](const GroupMember& member) {
    const bool found_anew = std::any_of(cards.begin(), cards.end(), [&](const auto& card) {
      return std::find(card.begin(), card.end(), member.address) != card.end();
    });
    if (found_anew && !member.driver.empty()) {
      plan.steps.push_back(steps::await_release(member.address, member.release_timeout));
    }
  });
  for (const std::vector<base::PciAddress>& card : cards) {
    plan.steps.push_back(steps::rescan_card(card));
  }
  if (console && !cards.empty()) {
    plan.steps.push_back(steps::release_console());
  }
}

template <typename Visit>
void for_each_of_cards(const Passthrough& passthrough, const survey::Pci& pci, Visit visit) {
  for (const Card& card : passthrough.cards) {
    for (const base::PciAddress& address : card.functions) {
      if (const survey::PciFunction* function = pci.find(address)) {
        visit(*function);
      }
    }
  }
}

/// Those that vendor-reset is to reset.
std::vector<base::PciAddress> reset_by_module(const survey::Survey& survey,
                                              const Passthrough& passthrough) {
  std::vector<base::PciAddress> devices;
  for_each_of_cards(passthrough, survey.pci, [&](const survey::PciFunction& function) {
    if (survey.vendor_reset && has_vendor_reset(function)) {
      devices.push_back(function.address);
    }
  });
  return devices;
}

/// Cheapest to fail first; what takes a device from the host last.
void add_device_steps(const config::VmSpec& spec, const survey::Survey& survey, Plan& plan) {
  const std::vector<base::PciAddress> own_way = reset_by_module(survey, plan.passthrough);
  std::set<std::string> drivers = takers_of(plan.passthrough);
  if (!own_way.empty()) {
    drivers.insert(steps::kVendorReset);
  }
  if (spec.hotplug.contains(config::Hotplug::pci)) {
    drivers.insert(config::kVfioDriver);
  }
  for (const std::string& driver : drivers) {
    plan.steps.push_back(steps::load_driver(driver));
  }
  // Who uses a device goes before it is taken, and comes back as the last.
  add_desktop_steps(spec, survey, plan);
  add_rescan_steps(plan);
  for_each_endpoint(plan.passthrough, [&](const GroupMember& member) {
    plan.steps.push_back(steps::keep_awake(member.address));
  });
  const std::vector<steps::Step> bind = binding_steps(plan.passthrough);
  plan.steps.insert(plan.steps.end(), bind.begin(), bind.end());
  for (const base::PciAddress& device : own_way) {
    plan.steps.push_back(steps::set_reset_method(device));
  }
  for (const Card& card : plan.passthrough.cards) {
    plan.steps.push_back(steps::reset_card(card.functions, card.on_no_reset, spec.force_tainted));
  }
}

/// What cards are known for.
void warn_of_cards(const survey::Survey& survey, Plan& plan) {
  for_each_of_cards(plan.passthrough, survey.pci, [&](const survey::PciFunction& function) {
    const std::string name = base::to_string(function.address);
    if (has_vendor_reset(function) && !survey.vendor_reset) {
      plan.warnings.push_back(name +
                              " is of a kind that often does not come back from a guest; the "
                              "kernel module vendor-reset has a way for it, and is not installed");
    }
    const auto view = plan.passthrough.views.find(function.address);
    if (function.boot_vga && view != plan.passthrough.views.end() && view->second.rombar &&
        !view->second.rom) {
      plan.warnings.push_back(name +
                              " is the screen that the firmware used, and its ROM is what that "
                              "left of it: if the guest shows nothing, give it one from a file "
                              "(\"rom\"), or none (\"rombar\": false)");
    }
  });
}

void warn_of_missing_resets(Plan& plan) {
  for (const Card& card : plan.passthrough.cards) {
    if (!card.outlook.is_possible()) {
      plan.warnings.push_back(describe(card) +
                              "; a guest that crashes or is ended may leave it unusable until the "
                              "host is powered off");
    }
  }
}

/// What the kernel was told makes its IOMMU groups less than they say.
void warn_of_weak_walls(const survey::Uses& uses, Plan& plan) {
  std::vector<std::string> numbers;
  for_each_given_group(plan.passthrough,
                       [&](unsigned group) { numbers.push_back(std::to_string(group)); });
  if (numbers.empty()) {
    return;
  }
  const std::string groups = "IOMMU groups (" + base::join(numbers, ", ") + ")";
  if (uses.acs_override) {
    plan.warnings.push_back("pcie_acs_override is on the kernel's command line: that the guest's " +
                            groups + " are apart from the host's other devices is a claim only");
  }
  if (uses.unsafe_interrupts) {
    plan.warnings.push_back(
        "vfio_iommu_type1's allow_unsafe_interrupts is on: a guest with devices of " + groups +
        " can send the host any interrupt");
  }
}

void add_memory_steps(const config::VmSpec::Memory& spec, Plan& plan) {
  if (!plan.memory.page) {
    return;
  }
  for (std::size_t i = 0; i < plan.memory.nodes.size(); ++i) {
    plan.steps.push_back(steps::fill_pool({plan.memory.nodes[i],
                                           *plan.memory.page,
                                           plan.memory.pages_of(i, spec.size),
                                           spec.hugepages->compact,
                                           spec.hugepages->drop_caches}));
  }
}

/// After memory, since a CPU that is the guest's does not help to find it.
void add_cpu_steps(const config::VmSpec& spec, const survey::Survey& survey, Plan& plan) {
  const Placement& placement = plan.placement;
  const base::CpuSet cpus = placement.guests();
  const auto wants = [&](config::Isolation kind) { return spec.cpu.isolate.contains(kind); };
  const bool partition = placement.exclusive == Exclusive::by_partition;
  if (partition || placement.weight) {
    const unsigned weight = placement.weight.value_or(steps::kUsualWeight);
    plan.steps.push_back(survey.guardian_unit ? steps::enable_controllers_of_unit(weight)
                                              : steps::enable_controllers());
  }
  if (placement.weight) {
    plan.steps.push_back(steps::weigh_cgroup(spec.name, *placement.weight));
  }
  if (placement.lifts_throttling) {
    plan.steps.push_back(steps::set_tunable(steps::Tunable::rt_throttling));
  }
  // Only now: Linux 6.12 would count the time of it against that of all CPUs, and refuse.
  if (placement.lifts_throttling && survey.realtime.fair_server) {
    plan.steps.push_back(steps::tune_cpus(steps::CpuTuning::fair_server, cpus));
  }
  if (partition) {
    plan.steps.push_back(steps::isolate_cpus(spec.name, cpus));
  } else if (wants(config::Isolation::tasks) && placement.exclusive == Exclusive::no) {
    plan.steps.push_back(steps::confine_host(cpus));
  }
  if (wants(config::Isolation::kernel)) {
    plan.steps.push_back(steps::set_tunable(steps::Tunable::statistics));
  }
  if (!spec.cpu.halt_polling) {
    plan.steps.push_back(steps::set_tunable(steps::Tunable::halt_polling));
  }
  if (wants(config::Isolation::frequency)) {
    plan.steps.push_back(steps::tune_cpus(steps::CpuTuning::frequency, cpus));
  }
}

/// Once the devices are the guest's: the host's drivers had interrupts and threads for them, and
/// get others when they come back, which then are where they were.
void add_moves(const config::VmSpec& spec, Plan& plan) {
  const base::CpuSet cpus = plan.placement.guests();
  if (spec.cpu.isolate.contains(config::Isolation::interrupts)) {
    plan.steps.push_back(steps::move_interrupts(cpus));
    plan.placement.interrupts = !plan.passthrough.slots.empty();
  }
  if (spec.cpu.isolate.contains(config::Isolation::kernel)) {
    plan.steps.push_back(steps::move_work_queues(cpus));
    plan.steps.push_back(steps::move_kernel_threads(cpus));
  }
}

/// A guest that has CPUs for itself, or keeps others from them, shares them with no other.
bool needs_own_cpus(const config::VmSpec& spec, const Placement& placement) {
  return placement.pinned() && (placement.exclusive != Exclusive::no || placement.realtime() ||
                                !spec.cpu.isolate.empty());
}

std::string lacks_node(const std::string& node) {
  return "Cannot open " + node + "; type: sudo chown $USER " + node + ", or: sudo vmlaunch …";
}

/// Without root nobody looks whether a device works, before a guest or after it.
void refuse_tainted(const config::VmSpec& spec, const survey::Survey& survey, const Plan& plan) {
  for_each_endpoint(plan.passthrough, [&](const GroupMember& member) {
    const auto taint = survey.tainted.find(member.address);
    if (member.given && taint != survey.tainted.end() && !spec.force_tainted) {
      throw Failure(ExitCode::needs_power_cycle,
                    "Cannot give it to a guest: " + taint->second +
                        "; to start all the same: vmlaunch run --force-tainted FILE");
    }
  });
}

/// Without root a run takes what somebody prepared: bound, with a node and a limit of the user's.
void require_prepared(const config::VmSpec& spec, const survey::Survey& survey, const Plan& plan) {
  std::vector<std::string> problems;
  for (const auto& [name, on] : spec.module_parameters) {
    const auto now = survey.parameters.find(name);
    if (now == survey.parameters.end() || now->second != on) {
      problems.push_back("Cannot set the module parameter " + name +
                         " without root; type: sudo vmlaunch …");
    }
  }
  if (!spec.cpu.isolate.empty() || !spec.cpu.halt_polling) {
    problems.emplace_back(
        "Cannot change for what the host uses its CPUs (cpu.isolate, cpu.halt_polling) without "
        "root; type: sudo vmlaunch …");
  }
  for_each_endpoint(plan.passthrough, [&](const GroupMember& member) {
    if (member.verdict == Verdict::must_bind) {
      problems.push_back("Cannot bind " + base::to_string(member.address) +
                         " to vfio-pci without root; type: sudo vmlaunch …");
    }
  });
  for (const std::vector<base::PciAddress>& card : plan.passthrough.rescanned) {
    problems.push_back("Cannot find " + base::to_string(card.front()) +
                       " anew without root; type: sudo vmlaunch …");
  }
  for_each_given_group(plan.passthrough, [&](unsigned group) {
    if (problems.empty() && !survey.open_groups.contains(group)) {
      problems.push_back(lacks_node("/dev/vfio/" + std::to_string(group)));
    }
  });
  if (problems.empty() && plan.qemu.memlock && survey.memlock_limit < plan.qemu.memlock->bytes) {
    problems.push_back(
        "Cannot lock " + base::to_string(*plan.qemu.memlock) + " of memory: the limit is " +
        base::to_string(base::ByteSize{survey.memlock_limit}) + "; type: sudo vmlaunch …");
  }
  if (!problems.empty()) {
    problems.push_back(
        "What an administrator can do once, so that it needs no root: vmlaunch setup " +
        base::shell_quote(spec.file));
    throw Failure(ExitCode::preflight, base::join(problems, "\n"));
  }
}

}  // namespace

std::set<std::string> takers_of(const Passthrough& passthrough) {
  std::set<std::string> drivers;
  for_each_endpoint(passthrough, [&](const GroupMember& member) {
    if (member.verdict == Verdict::must_bind) {
      drivers.insert(member.taker);
    }
  });
  return drivers;
}

std::vector<steps::Step> binding_steps(const Passthrough& passthrough) {
  std::vector<steps::Step> reserve;
  std::vector<steps::Step> await;
  std::vector<steps::Step> bind;
  for_each_endpoint(passthrough, [&](const GroupMember& member) {
    if (member.verdict != Verdict::must_bind) {
      return;
    }
    reserve.push_back(steps::override_driver(member.address, member.driver, member.taker));
    if (!member.driver.empty()) {
      await.push_back(steps::await_release(member.address, member.release_timeout));
    }
    bind.push_back(steps::bind_driver(member.address, member.driver, member.taker));
  });
  std::vector<steps::Step> all = std::move(reserve);
  all.insert(all.end(), await.begin(), await.end());
  all.insert(all.end(), bind.begin(), bind.end());
  return all;
}

std::optional<base::ByteSize> memlock_of(const config::VmSpec& spec,
                                         const Passthrough& passthrough) {
  const bool reached_by_devices =
      !passthrough.slots.empty() || spec.hotplug.contains(config::Hotplug::pci);
  return reached_by_devices || spec.memory.locked
             ? std::optional(base::ByteSize{spec.memory.size.bytes + kMemlockMargin})
             : std::nullopt;
}

void add_host_steps(const config::VmSpec& spec,
                    const survey::Survey& survey,
                    const Identity& identity,
                    Plan& plan) {
  if (survey.cgroup || survey.guardian_unit) {
    plan.steps.push_back(steps::make_cgroup(spec.name, survey.guardian_unit));
  } else {
    plan.warnings.emplace_back(
        "no cgroup2 folder may be written here: QEMU is held by its process number alone");
  }
  add_network_steps(spec, survey, identity, plan);
  plan.passthrough = choose_devices(spec, survey);
  plan.placement =
      choose_placement(spec.cpu, survey, plan.passthrough, identity.privileged, plan.warnings);
  plan.memory = choose_memory(spec.memory, survey, plan.passthrough, identity.privileged);
  if (plan.memory.warning) {
    plan.warnings.push_back(*plan.memory.warning);
  }
  require_desktop_can_end(spec, survey, identity, plan);
  warn_of_weak_walls(survey.uses, plan);
  warn_of_missing_resets(plan);
  warn_of_cards(survey, plan);
  plan.qemu.memlock = memlock_of(spec, plan.passthrough);
  if (needs_own_cpus(spec, plan.placement)) {
    plan.steps.push_back(steps::take_cpus(plan.placement.guests()));
  }
  if (identity.privileged) {
    for (const auto& [name, on] : spec.module_parameters) {
      plan.steps.push_back(steps::set_parameter(name, on));
    }
    add_memory_steps(spec.memory, plan);
    add_cpu_steps(spec, survey, plan);
    add_device_steps(spec, survey, plan);
    add_moves(spec, plan);
  } else {
    refuse_tainted(spec, survey, plan);
    require_prepared(spec, survey, plan);
  }
  add_usb_steps(spec, survey, identity, plan);
}

}  // namespace vmlaunch::launcher::plan
