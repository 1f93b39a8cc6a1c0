#include "launcher/plan/placement.hpp"

#include <algorithm>
#include <iterator>
#include <optional>
#include <set>
#include <tuple>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/survey/print.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using base::common;
using base::CpuSet;
using base::without;
using config::Pin;
using config::Policy;
using config::VmSpec;
using survey::Cluster;

/// CPUs that are given away together: as many threads of a core as the guest's cores have, or one.
using Unit = std::vector<unsigned>;

/// What of a core becomes a unit.
enum class Packing { threads_of_a_core, one_of_a_core, any };

const survey::Cpu& cpu_of(const survey::Cpus& cpus, unsigned number) {
  return *std::find_if(cpus.list.begin(), cpus.list.end(), [number](const survey::Cpu& cpu) {
    return cpu.number == number;
  });
}

/// All threads of the cores that these CPUs are threads of.
CpuSet cores_of(const survey::Cpus& cpus, const CpuSet& threads) {
  CpuSet all;
  for (const unsigned number : threads) {
    all.merge(CpuSet(cpu_of(cpus, number).siblings));
  }
  return all;
}

[[noreturn]] void refuse(const std::string& why) {
  throw Failure(ExitCode::preflight, "Cannot place the vCPUs: " + why);
}

/// Whole clusters of a better tier come before any of the next.
using Tier = std::tuple<bool, bool>;

Tier tier(const Cluster& cluster, const std::set<unsigned>& nodes) {
  const bool far = !nodes.empty() && cluster.node && !nodes.contains(*cluster.node);
  return {far, cluster.kind == survey::CoreKind::efficient};
}

/// Larger caches first; then what the host's own work, which begins at CPU 0, is far from.
auto rank(const Cluster& cluster, const std::set<unsigned>& nodes) {
  const std::uint64_t cache = cluster.cache ? cluster.cache->size.bytes : 0;
  const unsigned first = *cluster.cores.begin()->begin();
  return std::tuple(tier(cluster, nodes), ~cache, first == 0, first);
}

/// Those that are online, and that QEMU's cgroup may use.
CpuSet usable_cpus(const survey::Survey& survey) {
  CpuSet online = survey::online_cpus(survey.host_cpus);
  if (!survey.cpuset.empty()) {
    CpuSet allowed = survey.cpuset;
    allowed.insert(survey.host_cpus.isolated.begin(), survey.host_cpus.isolated.end());
    online = common(online, allowed);
  }
  return online;
}

/// CPUs that running VMs keep for themselves.
CpuSet had_by_others(const survey::Survey& survey) {
  CpuSet had;
  for (const auto& [cpu, by] : survey.cpus_had) {
    had.insert(cpu);
  }
  return had;
}

/// A choice among the host's CPUs, by what is best for the guest.
class Chooser {
 public:
  Chooser(const VmSpec::Cpu& spec, const survey::Cpus& cpus, const std::set<unsigned>& nodes)
      : spec_(spec), clusters_(survey::clusters_of(cpus)) {
    std::sort(clusters_.begin(), clusters_.end(), [&](const Cluster& a, const Cluster& b) {
      return rank(a, nodes) < rank(b, nodes);
    });
    for (const Cluster& cluster : clusters_) {
      tiers_.push_back(tier(cluster, nodes));
    }
  }

  /// A CPU for each vCPU; none if there are too few of the usable ones. Near and strong CPUs come
  /// before whole cores.
  [[nodiscard]] Unit choose(const CpuSet& usable) const {
    const Packing whole = spec_.threads > 1 ? Packing::threads_of_a_core : Packing::one_of_a_core;
    for (std::size_t end = 1; end <= clusters_.size(); ++end) {
      if (end < clusters_.size() && tiers_[end] == tiers_[end - 1]) {
        continue;
      }
      for (const Packing packing : {whole, Packing::any}) {
        if (Unit chosen = choose(usable, packing, end); !chosen.empty()) {
          return chosen;
        }
      }
    }
    return {};
  }

 private:
  [[nodiscard]] std::vector<Unit> units_of(const Cluster& cluster,
                                           const CpuSet& usable,
                                           Packing packing) const {
    const std::size_t size = packing == Packing::threads_of_a_core ? spec_.threads : 1;
    std::vector<Unit> units;
    for (const CpuSet& core : cluster.cores) {
      const CpuSet free = common(core, usable);
      Unit unit;
      for (const unsigned cpu : free) {
        unit.push_back(cpu);
        if (unit.size() == size) {
          units.push_back(std::exchange(unit, {}));
          if (packing == Packing::one_of_a_core) {
            break;
          }
        }
      }
    }
    return units;
  }

  /// Of the first clusters: from one where they fit, else from as good ones as there are.
  [[nodiscard]] Unit choose(const CpuSet& usable, Packing packing, std::size_t clusters) const {
    const std::size_t need =
        packing == Packing::threads_of_a_core ? spec_.count() / spec_.threads : spec_.count();
    std::vector<Unit> all;
    for (std::size_t i = 0; i < clusters; ++i) {
      const std::vector<Unit> units = units_of(clusters_[i], usable, packing);
      if (units.size() >= need) {
        return first_of(units, need);
      }
      all.insert(all.end(), units.begin(), units.end());
    }
    return all.size() >= need ? first_of(all, need) : Unit();
  }

  static Unit first_of(const std::vector<Unit>& units, std::size_t need) {
    Unit cpus;
    for (std::size_t i = 0; i < need; ++i) {
      cpus.insert(cpus.end(), units[i].begin(), units[i].end());
    }
    return cpus;
  }

  const VmSpec::Cpu& spec_;
  std::vector<Cluster> clusters_;
  std::vector<Tier> tiers_;
};

std::vector<CpuSet> seats_of(const Unit& cpus) {
  std::vector<CpuSet> seats;
  seats.reserve(cpus.size());
  for (const unsigned cpu : cpus) {
    seats.push_back({cpu});
  }
  return seats;
}

std::vector<CpuSet> choose_seats(const VmSpec::Cpu& spec,
                                 const survey::Survey& survey,
                                 const std::set<unsigned>& nodes) {
  const survey::Cpus& cpus = survey.host_cpus;
  const CpuSet all = usable_cpus(survey);
  const CpuSet housekeeping = without(all, cpus.isolated);
  const CpuSet of_host =
      cpu_of(cpus, *(housekeeping.empty() ? all : housekeeping).begin()).siblings;
  const CpuSet had = had_by_others(survey);
  const CpuSet online = without(all, had);
  const CpuSet isolated = common(online, cpus.isolated);
  const Chooser chooser(spec, cpus, nodes);
  for (const CpuSet& usable : {isolated, without(online, of_host)}) {
    if (const Unit chosen = chooser.choose(usable); !chosen.empty()) {
      return seats_of(chosen);
    }
  }
  refuse("this host has " + std::to_string(all.size()) + " CPUs, of which one core (" +
         base::to_string(of_host) + ") is left to it, " +
         (had.empty() ? "" : "other VMs have " + base::to_string(had) + ", ") +
         "and the guest has " + std::to_string(spec.count()) +
         "; give it fewer, or name CPUs in cpu.pin");
}

/// Threads of a core after each other, as the guest's are numbered.
std::vector<CpuSet> pair_up(const CpuSet& set, const survey::Cpus& cpus) {
  std::vector<CpuSet> seats;
  CpuSet left = set;
  while (!left.empty()) {
    CpuSet core = common(left, cpu_of(cpus, *left.begin()).siblings);
    core.insert(*left.begin());  // one that is offline has no siblings
    for (const unsigned cpu : core) {
      seats.push_back({cpu});
    }
    left = without(left, core);
  }
  return seats;
}

void require_online(const CpuSet& wanted, const CpuSet& online, const char* key) {
  const CpuSet missing = without(wanted, online);
  if (!missing.empty()) {
    refuse(std::string(key) +
           " names CPUs that are not there, offline, or kept from QEMU by a cpuset (" +
           base::to_string(missing) +
           "); type: cat /sys/devices/system/cpu/online /sys/fs/cgroup/cpuset.cpus.effective");
  }
}

/// The host's CPUs that no vCPU has, nor the other threads of its cores; on the guest's nodes if
/// there are such.
CpuSet choose_rest(const CpuSet& guests, const survey::Survey& survey) {
  const survey::Cpus& cpus = survey.host_cpus;
  CpuSet online = usable_cpus(survey);
  std::set<std::optional<unsigned>> nodes;
  for (const unsigned guest : guests) {
    nodes.insert(cpu_of(cpus, guest).node);
  }
  CpuSet near;
  for (const survey::Cpu& cpu : cpus.list) {
    if (cpu.online && nodes.contains(cpu.node)) {
      near.insert(cpu.number);
    }
  }
  const CpuSet free =
      without(without(without(online, guests), cpus.isolated), had_by_others(survey));
  const CpuSet apart = without(free, cores_of(cpus, guests));
  for (const CpuSet& choice : {common(apart, near), apart, common(free, near), free}) {
    if (!choice.empty()) {
      return choice;
    }
  }
  return online;
}

std::string vcpu_list(const CpuSet& numbers) {
  return (numbers.size() == 1 ? "vCPU " : "vCPUs ") + base::to_string(numbers);
}

/// Those of several vCPUs.
CpuSet crowded_cpus(const Placement& placement) {
  CpuSet seen;
  CpuSet twice;
  for (const CpuSet& cpus : placement.vcpus) {
    twice.merge(common(seen, cpus));
    seen.insert(cpus.begin(), cpus.end());
  }
  return twice;
}

/// Where the guest is told of other cores than it has.
void warn_of_cores(const VmSpec::Cpu& spec,
                   const Placement& placement,
                   const survey::Cpus& cpus,
                   std::vector<std::string>& warnings) {
  std::vector<CpuSet> cores;
  cores.reserve(placement.vcpus.size());
  for (const CpuSet& seat : placement.vcpus) {
    cores.push_back(cores_of(cpus, seat));
  }
  CpuSet split;
  CpuSet crowded;
  for (unsigned a = 0; a < cores.size(); ++a) {
    for (unsigned b = a + 1; b < cores.size(); ++b) {
      const bool told = a / spec.threads == b / spec.threads;
      const bool same = !common(cores[a], cores[b]).empty();
      if (told && !same) {
        split.merge(CpuSet{a, b});
      } else if (!told && same) {
        crowded.merge(CpuSet{a, b});
      }
    }
  }
  if (!split.empty()) {
    warnings.push_back(vcpu_list(split) +
                       " are threads of one core for the guest, and of several of the host's: it "
                       "schedules for what it does not have");
  }
  if (!crowded.empty()) {
    warnings.push_back(vcpu_list(crowded) +
                       " share cores of the host, and the guest is not told; cpu.threads says how "
                       "many threads a core has");
  }
}

void warn_of_poor_map(const VmSpec::Cpu& spec,
                      const Placement& placement,
                      const survey::Cpus& cpus,
                      const std::set<unsigned>& nodes,
                      std::vector<std::string>& warnings) {
  warn_of_cores(spec, placement, cpus, warnings);
  CpuSet far;
  std::set<std::optional<survey::CoreKind>> kinds;
  for (unsigned i = 0; i < placement.vcpus.size(); ++i) {
    for (const unsigned number : placement.vcpus[i]) {
      const survey::Cpu& cpu = cpu_of(cpus, number);
      kinds.insert(cpu.kind);
      if (!nodes.empty() && cpu.node && !nodes.contains(*cpu.node)) {
        far.insert(i);
      }
    }
  }
  if (!far.empty()) {
    warnings.push_back(vcpu_list(far) + " are on another node than the guest's devices (node " +
                       base::to_string(CpuSet(nodes.begin(), nodes.end())) + ")");
  }
  if (kinds.size() > 1) {
    warnings.emplace_back(
        "the vCPUs are on performance and on efficient cores, and the guest takes all for the "
        "same");
  }
  const CpuSet beside = without(cores_of(cpus, placement.guests()), placement.guests());
  if (!beside.empty()) {
    warnings.push_back("the other threads of the guest's cores (" + base::to_string(beside) +
                       ") stay the host's: what it does there slows the guest; cpu.threads gives "
                       "them to the guest, too");
  }
  if (const CpuSet twice = crowded_cpus(placement); !twice.empty()) {
    warnings.push_back("several vCPUs run on the CPUs " + base::to_string(twice) +
                       ": one waits while another runs, also while that holds a lock");
  }
  const CpuSet shared = common(placement.rest, placement.guests());
  if (!shared.empty()) {
    warnings.push_back("QEMU's other threads run on CPUs of the guest's (" +
                       base::to_string(shared) + "): each time they do a vCPU waits");
  }
}

/// The words of sched(7).
std::string name_of(Policy policy) {
  switch (policy) {
    case Policy::other:
      return "SCHED_OTHER";
    case Policy::round_robin:
      return "SCHED_RR";
    case Policy::fifo:
      return "SCHED_FIFO";
  }
  return "";
}

/// What the kernel's command line is to name: it has one such list.
CpuSet all_isolated(const survey::Survey& survey, const Placement& placement) {
  CpuSet all = survey.host_cpus.isolated;
  all.merge(placement.guests());
  return all;
}

/// CPUs of vCPUs that others run on too: the host, QEMU, or another vCPU.
CpuSet shared_cpus(const survey::Survey& survey, const Placement& placement) {
  CpuSet shared = common(placement.rest, placement.guests());
  if (placement.exclusive == Exclusive::no) {
    shared.merge(without(placement.guests(), survey.host_cpus.isolated));
  }
  shared.merge(crowded_cpus(placement));
  return shared;
}

void set_policy(Placement& placement, const config::Realtime& wanted, std::string reason) {
  placement.policy = wanted.policy;
  placement.priority = wanted.priority;
  placement.from_start = wanted.from_start;
  placement.reason = std::move(reason);
}

/// As the config asks for.
void take_wanted(const config::Realtime& wanted,
                 const survey::Survey& survey,
                 const CpuSet& shared,
                 bool privileged,
                 Placement& placement,
                 std::vector<std::string>& warnings) {
  const std::string verb = "Cannot schedule the vCPUs as " + name_of(wanted.policy) + ": ";
  const std::string why = survey::obstacle(survey.realtime, wanted.priority, privileged);
  if (!why.empty()) {
    throw Failure(ExitCode::preflight, verb + why);
  }
  if (!shared.empty() && !wanted.force) {
    throw Failure(ExitCode::preflight,
                  verb + "the host uses the CPUs " + base::to_string(shared) +
                      " too, or QEMU's other threads do, and a busy vCPU would keep them off; keep "
                      "the host off from the boot on (isolcpus=" +
                      base::to_string(all_isolated(survey, placement)) +
                      " on the kernel's command line), leave \"realtime\" to \"auto\", or add "
                      "\"force\": true");
  }
  set_policy(placement, wanted, "the config asks for it");
  placement.lifts_throttling = shared.empty() && privileged;
  if (survey.realtime.throttled && !placement.lifts_throttling) {
    warnings.emplace_back(
        "the kernel stops a busy real-time vCPU for a part of each second (sched_rt_runtime_us), "
        "50 ms as a rule");
  }
}

/// Throws Failure for what cannot be had.
Exclusive choose_exclusive(const VmSpec::Cpu& spec,
                           const survey::Survey& survey,
                           bool privileged,
                           const Placement& placement,
                           std::vector<std::string>& warnings) {
  const CpuSet guests = placement.guests();
  if (without(guests, survey.host_cpus.isolated).empty()) {
    return Exclusive::from_boot;
  }
  if (!spec.isolate.contains(config::Isolation::tasks)) {
    return Exclusive::no;
  }
  const std::string cpus = base::to_string(guests);
  const std::string verb = "Cannot keep the host's tasks off the CPUs " + cpus + ": ";
  const std::string from_boot = "isolcpus=" + base::to_string(all_isolated(survey, placement)) +
                                " on the kernel's command line";
  if (!privileged) {
    throw Failure(ExitCode::preflight,
                  verb + "that takes root; type: sudo vmlaunch …, or put " + from_boot);
  }
  if (!survey.partitions && survey.guardian_unit && survey.cpu_controllers) {
    warnings.push_back(
        "this kernel makes no isolated partition (Linux 6.8 does): systemd keeps "
        "services and sessions off the CPUs " +
        cpus + ", and what the kernel runs there itself stays; " + from_boot + " does more");
    return Exclusive::no;
  }
  if (!survey.partitions || !(survey.cgroup || survey.guardian_unit)) {
    throw Failure(ExitCode::preflight,
                  verb +
                      "this kernel makes no isolated partition below a VM's cgroup (Linux 6.8 "
                      "does); put " +
                      from_boot);
  }
  if (!common(placement.rest, guests).empty()) {
    throw Failure(ExitCode::preflight,
                  verb +
                      "nothing else of QEMU can run there, and cpu.emulator, or for want of "
                      "others vmlaunch, gives it " +
                      base::to_string(common(placement.rest, guests)) +
                      "; leave the host a CPU, and name it in cpu.emulator");
  }
  return Exclusive::by_partition;
}

/// Real time is best where nobody else is, and worse than the usual elsewhere.
void choose_policy(const VmSpec::Cpu& spec,
                   const survey::Survey& survey,
                   bool privileged,
                   Placement& placement,
                   std::vector<std::string>& warnings) {
  const CpuSet shared = shared_cpus(survey, placement);
  placement.alone = shared.empty();
  if (spec.realtime && spec.realtime->policy != Policy::other) {
    take_wanted(*spec.realtime, survey, shared, privileged, placement, warnings);
    return;
  }
  const config::Realtime usual;
  const std::string why = survey::obstacle(survey.realtime, usual.priority, privileged);
  if (spec.realtime) {
    placement.reason = "the config asks for it";
  } else if (!shared.empty()) {
    placement.reason =
        "the host, or something else of the VM's, uses CPUs " + base::to_string(shared) + " too";
  } else if (!why.empty()) {
    placement.reason = why;
  } else if (survey.realtime.throttled && !privileged) {
    placement.reason =
        "real-time threads are stopped for a part of each second, as long as root "
        "does not change that (sched_rt_runtime_us)";
  } else {
    set_policy(placement,
               usual,
               placement.exclusive == Exclusive::from_boot
                   ? "the kernel keeps the host off these CPUs (isolcpus)"
                   : "the host's tasks are kept off these CPUs");
    placement.lifts_throttling = privileged;
  }
}

/// One for each last-level cache, where the vCPUs in their order fill one after the other equally.
unsigned count_dies(const VmSpec::Cpu& spec, const Placement& placement, const survey::Cpus& cpus) {
  std::vector<CpuSet> caches;  // in the vCPUs' order
  std::vector<unsigned> sizes;
  for (const CpuSet& seat : placement.vcpus) {
    const auto cpu = std::find_if(cpus.list.begin(), cpus.list.end(), [&](const auto& one) {
      return one.cache && without(seat, one.cache->cpus).empty();
    });
    if (cpu == cpus.list.end()) {
      return 1;
    }
    if (caches.empty() || caches.back() != cpu->cache->cpus) {
      caches.push_back(cpu->cache->cpus);
      sizes.push_back(0);
    }
    ++sizes.back();
  }
  const auto dies = static_cast<unsigned>(caches.size());
  const bool is_even =
      std::all_of(sizes.begin(), sizes.end(), [&](unsigned size) { return size == sizes.front(); });
  const bool is_distinct = std::set<CpuSet>(caches.begin(), caches.end()).size() == caches.size();
  return spec.sockets == 1 && is_even && is_distinct && spec.cores % dies == 0 ? dies : 1;
}

/// Where the host's tasks compete for the guest's CPUs, the guest comes first. Throws Failure for
/// what cannot be had.
std::optional<unsigned> choose_weight(const VmSpec::Cpu& spec,
                                      const survey::Survey& survey,
                                      bool privileged,
                                      const Placement& placement) {
  constexpr unsigned kLargest = 10000;
  const bool has_cgroup = survey.cgroup || survey.guardian_unit;
  const bool can = privileged && survey.cpu_controllers && has_cgroup;
  if (spec.weight && !can) {
    throw Failure(ExitCode::preflight,
                  "Cannot give the VM's cgroup a CPU weight: that takes root and the cgroup2 "
                  "controllers cpu and cpuset; type: cat /sys/fs/cgroup/cgroup.controllers");
  }
  if (spec.weight) {
    return spec.weight;
  }
  return can && placement.pinned() && !placement.realtime() ? std::optional(kLargest)
                                                            : std::nullopt;
}

/// Which vCPU is where, by cluster and core.
std::vector<std::string> draw(const Placement& placement, const survey::Cpus& cpus) {
  std::vector<std::string> lines;
  for (const Cluster& cluster : survey::clusters_of(cpus)) {
    lines.push_back(survey::place_of(cluster) +
                    (cluster.kind ? std::string(", ") + to_string(*cluster.kind) + " cores" : ""));
    CpuSet hosts;
    for (const CpuSet& core : cluster.cores) {
      std::vector<std::string> seated;
      for (std::size_t i = 0; i < placement.vcpus.size(); ++i) {
        if (!common(core, placement.vcpus[i]).empty()) {
          seated.push_back("vCPU " + std::to_string(i) + " on " +
                           base::to_string(placement.vcpus[i]));
        }
      }
      if (seated.empty()) {
        hosts.merge(CpuSet(core));
      } else {
        lines.push_back("  core of " + base::to_string(core) + ": " + base::join(seated, ", "));
      }
    }
    const CpuSet unused = common(hosts, cpus.isolated);
    hosts = without(hosts, unused);
    if (!hosts.empty()) {
      lines.push_back("  the host's: " + base::to_string(hosts));
    }
    if (!unused.empty()) {
      lines.push_back("  nobody's (isolcpus): " + base::to_string(unused));
    }
  }
  lines.push_back("QEMU's other threads: " + base::to_string(placement.rest));
  lines.push_back("the vCPUs are scheduled as " + name_of(placement.policy) +
                  (placement.realtime() ? ", priority " + std::to_string(placement.priority) : "") +
                  (placement.from_start ? "" : ", once the guest runs") + ": " + placement.reason);
  if (placement.weight) {
    lines.push_back("the VM's cgroup has a CPU weight of " + std::to_string(*placement.weight));
  }
  return lines;
}

}  // namespace

CpuSet Placement::guests() const {
  CpuSet all;
  for (const CpuSet& cpus : vcpus) {
    all.insert(cpus.begin(), cpus.end());
  }
  return all;
}

Placement choose_placement(const VmSpec::Cpu& spec,
                           const survey::Survey& survey,
                           const Passthrough& passthrough,
                           bool privileged,
                           std::vector<std::string>& warnings) {
  Placement placement;
  if (spec.pin.kind == Pin::Kind::none) {
    placement.weight = choose_weight(spec, survey, privileged, placement);
    return placement;
  }
  const survey::Cpus& cpus = survey.host_cpus;
  const CpuSet online = usable_cpus(survey);
  if (online.empty()) {
    refuse("the kernel does not show its CPUs; type: ls /sys/devices/system/cpu");
  }
  const std::set<unsigned> nodes = nodes_near(passthrough, survey.pci);
  if (spec.pin.kind == Pin::Kind::automatic) {
    placement.vcpus = choose_seats(spec, survey, nodes);
  } else {
    placement.vcpus = spec.pin.map;
    // What another VM has is refused with its name when it is reserved.
    CpuSet there = had_by_others(survey);
    there.insert(online.begin(), online.end());
    require_online(spec.pin.set, there, "cpu.pin");
    require_online(placement.guests(), there, "cpu.pin");
    if (spec.pin.kind == Pin::Kind::set) {
      placement.vcpus = pair_up(spec.pin.set, cpus);
    }
  }
  placement.rest = spec.emulator.value_or(choose_rest(placement.guests(), survey));
  require_online(placement.rest, online, "cpu.emulator");
  warn_of_poor_map(spec, placement, cpus, nodes, warnings);
  placement.exclusive = choose_exclusive(spec, survey, privileged, placement, warnings);
  choose_policy(spec, survey, privileged, placement, warnings);
  placement.weight = choose_weight(spec, survey, privileged, placement);
  placement.dies = count_dies(spec, placement, cpus);
  placement.picture = draw(placement, cpus);
  return placement;
}

}  // namespace vmlaunch::launcher::plan
