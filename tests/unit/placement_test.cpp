#include "launcher/plan/placement.hpp"

#include <string>
#include <tuple>
#include <vector>

#include "base/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/hosts.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using base::CpuSet;
using config::Pin;
using config::Policy;
using config::Realtime;
using config::VmSpec;
using tests::PciTree;
using tests::refusal;

using AddHost = void (*)(PciTree&);

survey::Survey look(AddHost add, const std::string& isolated = "") {
  PciTree built;
  add(built);
  built.write("/sys/devices/system/cpu/isolated", isolated + "\n");
  const base::Tree tree = built.tree();
  survey::Reader reader(tree);
  survey::Survey survey;
  survey.cgroup = true;
  survey.host_cpus = survey::look_at_cpus(reader);
  return survey;
}

CpuSet set(const std::string& text) {
  return base::parse_cpu_set(text).value();
}

VmSpec::Cpu guest(unsigned cores, unsigned threads, Pin pin = {Pin::Kind::automatic, {}, {}}) {
  VmSpec::Cpu cpu;
  cpu.cores = cores;
  cpu.threads = threads;
  cpu.pin = std::move(pin);
  return cpu;
}

Pin listed(const std::string& text) {
  return {Pin::Kind::set, set(text), {}};
}

Pin mapped(const std::vector<std::string>& seats) {
  Pin pin{Pin::Kind::map, {}, {}};
  for (const std::string& seat : seats) {
    pin.map.push_back(set(seat));
  }
  return pin;
}

/// What was chosen, and what was said about it.
struct Chosen {
  Placement placement;
  std::vector<std::string> warnings;

  /// The CPUs in the order of the vCPUs: "1 17 2 18".
  [[nodiscard]] std::string seats() const {
    std::vector<std::string> texts;
    for (const CpuSet& cpus : placement.vcpus) {
      texts.push_back(base::to_string(cpus));
    }
    return base::join(texts, " ");
  }
};

Chosen choose(const VmSpec::Cpu& spec,
              const survey::Survey& survey,
              const Passthrough& passthrough = {},
              bool privileged = true) {
  Chosen chosen;
  chosen.placement = choose_placement(spec, survey, passthrough, privileged, chosen.warnings);
  return chosen;
}

std::string refusal_of(const VmSpec::Cpu& spec,
                       const survey::Survey& survey,
                       bool privileged = true) {
  return refusal([&] { static_cast<void>(choose(spec, survey, {}, privileged)); });
}

/// A device on a node.
Passthrough device_on(survey::Survey& survey, unsigned node) {
  PciTree tree;
  tests::add_laptop(tree);
  tree.write(tree.device("0000:01:00.0") + "/numa_node", std::to_string(node) + "\n");
  survey.pci = survey::look_at_pci(tree.tree());
  Passthrough passthrough;
  passthrough.slots = {{{0, 1, 0, 0}}};
  return passthrough;
}

TEST_CASE("placement: without a wish for CPUs the kernel chooses", "[plan]") {
  CHECK_FALSE(choose(guest(4, 2, {}), look(tests::add_two_socket_server)).placement.pinned());
}

TEST_CASE("placement: a hybrid's guest gets performance cores, whole ones", "[plan]") {
  const survey::Survey survey = look(tests::add_hybrid_desktop);
  const Chosen chosen = choose(guest(6, 2), survey);
  CHECK(chosen.seats() == "2 3 4 5 6 7 8 9 10 11 12 13");
  CHECK(base::to_string(chosen.placement.rest) == "0-1,14-31");
  CHECK(chosen.warnings.empty());
  // Seven are left when the host has one; what is more is told.
  const Chosen more = choose(guest(10, 2), survey);
  CHECK(more.seats() == "2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21");
  CHECK(more.warnings ==
        std::vector<std::string>{
            "vCPUs 14-19 are threads of one core for the guest, and of several of the host's: it "
            "schedules for what it does not have",
            "the vCPUs are on performance and on efficient cores, and the guest takes all for the "
            "same"});
}

TEST_CASE("placement: a guest is on one last-level cache where it fits, the largest first",
          "[plan]") {
  const survey::Survey survey = look(tests::add_two_die_desktop);
  // The large cache is that of CPUs 0-7 and 16-23, of which the host keeps one core.
  CHECK(choose(guest(7, 2), survey).seats() == "1 17 2 18 3 19 4 20 5 21 6 22 7 23");
  CHECK(choose(guest(8, 2), survey).seats() == "8 24 9 25 10 26 11 27 12 28 13 29 14 30 15 31");
  CHECK(choose(guest(9, 2), survey).seats() == "1 17 2 18 3 19 4 20 5 21 6 22 7 23 8 24 9 25");
  CHECK(choose(guest(2, 1), survey).seats() == "1 2");
}

TEST_CASE("placement: vCPUs are on the node of the guest's devices", "[plan]") {
  survey::Survey survey = look(tests::add_two_socket_server);
  for (const auto& [node, seats, rest] : {std::tuple(0U, "1 21 2 22", "0,3-9,20,23-29"),
                                          std::tuple(1U, "10 30 11 31", "12-19,32-39")}) {
    const Passthrough passthrough = device_on(survey, node);
    const Chosen chosen = choose(guest(2, 2), survey, passthrough);
    CHECK(chosen.seats() == seats);
    CHECK(base::to_string(chosen.placement.rest) == rest);  // on the same node
    CHECK(chosen.warnings.empty());
  }
  // Those of another node only when there are no more.
  const Chosen large = choose(guest(12, 2), survey, device_on(survey, 1));
  CHECK(large.seats() == "10 30 11 31 12 32 13 33 14 34 15 35 16 36 17 37 18 38 19 39 1 21 2 22");
  CHECK(large.warnings == std::vector<std::string>{"vCPUs 20-23 are on another node than the "
                                                   "guest's devices (node 1)"});
}

TEST_CASE("placement: one core at least is left to the host", "[plan]") {
  const survey::Survey survey = look(tests::add_four_core_desktop);
  CHECK(choose(guest(3, 2), survey).seats() == "1 5 2 6 3 7");
  CHECK(base::to_string(choose(guest(3, 2), survey).placement.rest) == "0,4");
  CHECK(refusal_of(guest(4, 2), survey) ==
        "10: Cannot place the vCPUs: this host has 8 CPUs, of which one core (0,4) is left to it, "
        "and "
        "the guest has 8; give it fewer, or name CPUs in cpu.pin");
  // What is said to share a core does, and what is not, as far as it can.
  CHECK(choose(guest(3, 1), survey).seats() == "1 2 3");
  const Chosen crowded = choose(guest(4, 1), survey);
  CHECK(crowded.seats() == "1 5 2 6");
  CHECK(crowded.warnings ==
        std::vector<std::string>{"vCPUs 0-3 share cores of the host, and the guest is not told; "
                                 "cpu.threads says how many threads a core has"});
}

TEST_CASE("placement: QEMU's other threads keep off the guest's cores where they can", "[plan]") {
  const survey::Survey survey = look(tests::add_four_core_desktop);
  CHECK(base::to_string(choose(guest(2, 1), survey).placement.rest) == "0,3-4,7");
  CHECK(base::to_string(choose(guest(4, 1, listed("0-3")), survey).placement.rest) == "4-7");
  const Chosen all = choose(guest(4, 2, listed("0-7")), survey);
  CHECK(base::to_string(all.placement.rest) == "0-7");
  CHECK(all.warnings == std::vector<std::string>{
                            "QEMU's other threads run on CPUs of the guest's (0-7): each time they "
                            "do a vCPU waits"});
}

TEST_CASE("placement: CPUs that the host is kept off are taken first", "[plan]") {
  const Chosen chosen = choose(guest(2, 2), look(tests::add_four_core_desktop, "2-3,6-7"));
  CHECK(chosen.seats() == "2 6 3 7");
  CHECK(base::to_string(chosen.placement.rest) == "0-1,4-5");
  // Too few of them are none.
  CHECK(choose(guest(2, 2), look(tests::add_four_core_desktop, "3")).seats() == "1 5 2 6");
}

TEST_CASE("placement: CPUs that another VM has isolated are neither chosen nor used beside",
          "[plan]") {
  survey::Survey survey = look(tests::add_four_core_desktop);
  survey.cpus_had = {{1, "the VM a has it"}, {5, "the VM a has it"}};
  const Chosen chosen = choose(guest(1, 2), survey);
  CHECK(chosen.seats() == "2 6");
  CHECK(base::to_string(chosen.placement.rest) == "0,3-4,7");
  CHECK(refusal_of(guest(3, 2), survey)
            .ends_with("is left to it, other VMs have 1,5, and the guest has 6; give it fewer, or "
                       "name CPUs in cpu.pin"));
}

TEST_CASE("placement: a guest on several last-level caches is told of as many dies", "[plan]") {
  const survey::Survey survey = look(tests::add_two_die_desktop);
  const auto dies = [&](VmSpec::Cpu spec) { return choose(spec, survey).placement.dies; };
  std::vector<std::string> all;
  for (const survey::Cluster& cluster : survey::clusters_of(survey.host_cpus)) {
    for (const CpuSet& core : cluster.cores) {
      all.push_back(std::to_string(*core.begin()));
    }
  }
  REQUIRE(all.size() == 16);
  const std::vector<std::string> two_and_two = {all[1], all[2], all[8], all[9]};
  CHECK(dies(guest(4, 1, mapped(two_and_two))) == 2);
  CHECK(dies(guest(4, 1, mapped({all[1], all[8], all[2], all[9]}))) == 1);  // to and fro
  CHECK(dies(guest(4, 1, mapped({all[1], all[2], all[3], all[8]}))) == 1);  // not as many
  CHECK(dies(guest(4, 1, mapped({all[1], all[2], all[3], all[4]}))) == 1);
  CHECK(dies(guest(1, 4, mapped(two_and_two))) == 1);  // one core of four threads
  VmSpec::Cpu two_sockets = guest(2, 1, mapped(two_and_two));
  two_sockets.sockets = 2;
  CHECK(dies(two_sockets) == 1);
}

TEST_CASE("placement: systemd keeps its units off where the kernel makes no partition", "[plan]") {
  survey::Survey survey = look(tests::add_two_die_desktop);
  survey.guardian_unit = true;
  survey.cpu_controllers = true;
  VmSpec::Cpu spec = guest(2, 1, listed("2-3"));
  spec.isolate = {config::Isolation::tasks};
  const Chosen chosen = choose(spec, survey);
  CHECK(chosen.placement.exclusive == Exclusive::no);
  CHECK_FALSE(chosen.placement.alone);
  CHECK(chosen.placement.policy == Policy::other);
  CHECK(chosen.warnings.back() ==
        "this kernel makes no isolated partition (Linux 6.8 does): systemd keeps services and "
        "sessions off the CPUs 2-3, and what the kernel runs there itself stays; isolcpus=2-3 "
        "on the kernel's command line does more");
}

TEST_CASE("placement: the host's tasks are kept off by the boot, by a partition, or not at all",
          "[plan]") {
  survey::Survey survey = look(tests::add_four_core_desktop, "3,7");
  VmSpec::Cpu spec = guest(1, 2, listed("2,6"));
  CHECK(choose(spec, survey).placement.exclusive == Exclusive::no);
  spec.isolate = {config::Isolation::tasks};
  CHECK(
      refusal_of(spec, survey) ==
      "10: Cannot keep the host's tasks off the CPUs 2,6: this kernel makes no isolated partition "
      "below a VM's cgroup (Linux 6.8 does); put isolcpus=2-3,6-7 on the kernel's command line");
  survey.partitions = true;
  survey.cpu_controllers = true;
  const Placement placement = choose(spec, survey).placement;
  CHECK(placement.exclusive == Exclusive::by_partition);
  CHECK(placement.policy == Policy::round_robin);
  CHECK(placement.reason == "the host's tasks are kept off these CPUs");
  CHECK_FALSE(placement.weight);
  CHECK(refusal_of(spec, survey, false)
            .starts_with("10: Cannot keep the host's tasks off the CPUs 2,6: that takes root"));
  spec.emulator = set("6");
  CHECK(refusal_of(spec, survey).find("gives it 6; leave the host a CPU") != std::string::npos);
  CHECK(choose(guest(1, 2, listed("3,7")), survey).placement.exclusive == Exclusive::from_boot);
  // One thread of a core only.
  VmSpec::Cpu half = guest(1, 1, listed("2"));
  half.isolate = {config::Isolation::tasks};
  CHECK(choose(half, survey).warnings.size() == 1);
}

TEST_CASE("placement: where the host's tasks compete, the guest's cgroup weighs most", "[plan]") {
  survey::Survey survey = look(tests::add_four_core_desktop);
  VmSpec::Cpu spec = guest(1, 2);
  CHECK_FALSE(choose(spec, survey).placement.weight);
  survey.cpu_controllers = true;
  survey.cgroup = false;
  CHECK_FALSE(choose(spec, survey).placement.weight);  // nowhere to put it
  survey.cgroup = true;
  CHECK(choose(spec, survey).placement.weight == 10000U);
  CHECK_FALSE(choose(spec, survey, {}, false).placement.weight);
  CHECK_FALSE(choose(guest(1, 2, {}), survey).placement.weight);
  spec.weight = 77;
  CHECK(choose(spec, survey).placement.weight == 77U);
  VmSpec::Cpu unpinned = guest(1, 2, {});
  unpinned.weight = 5;
  CHECK(choose(unpinned, survey).placement.weight == 5U);
  CHECK(refusal_of(unpinned, survey, false)
            .starts_with("10: Cannot give the VM's cgroup a CPU weight: that takes root"));
}

TEST_CASE("placement: what a cpuset keeps from QEMU is as if it were not there", "[plan]") {
  survey::Survey survey = look(tests::add_four_core_desktop);
  survey.cpuset = set("0-2,4-6");
  CHECK(choose(guest(1, 2), survey).seats() == "1 5");
  CHECK(refusal_of(guest(3, 2), survey).find("this host has 6 CPUs") != std::string::npos);
  CHECK(refusal_of(guest(1, 1, listed("3")), survey).find("by a cpuset (3)") != std::string::npos);
  // One that another VM has, and that is offline since: refused when it is reserved.
  survey.host_cpus.list[3].online = false;
  survey.host_cpus.list[3].siblings = {};
  survey.cpus_had = {{3, "the VM a has it"}};
  CHECK(choose(guest(1, 1, listed("3")), survey).seats() == "3");
  survey = look(tests::add_four_core_desktop);
  survey.cpuset = set("0-2,4-6");
  // The kernel does not count those that it keeps for who asks for them.
  survey.host_cpus.isolated = {3, 7};
  CHECK(choose(guest(1, 2), survey).seats() == "3 7");
}

TEST_CASE("placement: where CPU 0 is isolated, another core is left to the host", "[plan]") {
  const Chosen chosen = choose(guest(2, 2), look(tests::add_four_core_desktop, "0,4"));
  CHECK(chosen.seats() == "0 4 2 6");
  CHECK(base::to_string(chosen.placement.rest) == "1,3,5,7");
}

TEST_CASE("placement: no real time where QEMU's own threads, or two vCPUs, share a CPU", "[plan]") {
  const survey::Survey survey = look(tests::add_four_core_desktop, "2-3,6-7");
  VmSpec::Cpu both = guest(2, 1, listed("2-3"));
  both.emulator = set("2-3");
  CHECK(choose(both, survey).placement.policy == Policy::other);
  VmSpec::Cpu crowded = guest(2, 1, mapped({"2", "2"}));
  CHECK(choose(crowded, survey).placement.policy == Policy::other);
  crowded.realtime = Realtime{};
  CHECK(refusal_of(crowded, survey).find("the CPUs 2 too, or QEMU's other threads do") !=
        std::string::npos);
}

TEST_CASE("placement: near CPUs come before whole cores", "[plan]") {
  survey::Survey survey = look(tests::add_two_socket_server);
  const Passthrough passthrough = device_on(survey, 1);
  CHECK(choose(guest(10, 1), survey, passthrough).seats() == "10 11 12 13 14 15 16 17 18 19");
  const Chosen chosen = choose(guest(12, 1), survey, passthrough);
  CHECK(chosen.seats() == "10 30 11 31 12 32 13 33 14 34 15 35");
}

TEST_CASE("placement: a set is paired by cores, a map is taken as it stands", "[plan]") {
  const survey::Survey survey = look(tests::add_four_core_desktop);
  CHECK(choose(guest(2, 2, listed("2-3,6-7")), survey).seats() == "2 6 3 7");
  const Chosen map = choose(guest(2, 2, mapped({"7", "3", "2", "6"})), survey);
  CHECK(map.seats() == "7 3 2 6");
  CHECK(map.warnings.empty());
  const Chosen poor = choose(guest(2, 2, mapped({"2", "3", "6", "7"})), survey);
  CHECK(poor.warnings ==
        std::vector<std::string>{
            "vCPUs 0-3 are threads of one core for the guest, and of several of the host's: it "
            "schedules for what it does not have",
            "vCPUs 0-3 share cores of the host, and the guest is not told; cpu.threads says how "
            "many threads a core has"});
  CHECK(choose(guest(2, 1, mapped({"1-2", "2-3"})), survey).seats() == "1-2 2-3");
}

TEST_CASE("placement: CPUs that are not there are refused", "[plan]") {
  const survey::Survey survey = look(tests::add_four_core_desktop);
  const std::string why =
      " names CPUs that are not there, offline, or kept from QEMU by a cpuset (8); type: cat "
      "/sys/devices/system/cpu/online /sys/fs/cgroup/cpuset.cpus.effective";
  CHECK(refusal_of(guest(2, 1, listed("7-8")), survey) ==
        "10: Cannot place the vCPUs: cpu.pin" + why);
  CHECK(refusal_of(guest(1, 1, mapped({"8"})), survey) ==
        "10: Cannot place the vCPUs: cpu.pin" + why);
  VmSpec::Cpu spec = guest(1, 1, listed("7"));
  spec.emulator = set("0,8");
  CHECK(refusal_of(spec, survey) == "10: Cannot place the vCPUs: cpu.emulator" + why);
  spec.emulator = set("6-7");
  CHECK(base::to_string(choose(spec, survey).placement.rest) == "6-7");
  CHECK(choose(spec, survey).warnings.size() == 2);  // and CPU 3 is beside the guest's
}

TEST_CASE("placement: real time is the default where the host is kept off, and only there",
          "[plan]") {
  survey::Survey survey = look(tests::add_four_core_desktop, "2-3,6-7");
  const VmSpec::Cpu spec = guest(2, 2);
  const Placement exclusive = choose(spec, survey).placement;
  CHECK(exclusive.policy == Policy::round_robin);
  CHECK(exclusive.priority == 1);
  CHECK(exclusive.lifts_throttling);
  CHECK(exclusive.reason == "the kernel keeps the host off these CPUs (isolcpus)");
  // Another VM may have lifted it, and end first: the step counts.
  survey.realtime.throttled = false;
  CHECK(choose(spec, survey).placement.lifts_throttling);
  // A user with that right can have it too, once root has lifted the throttling.
  CHECK(choose(spec, survey, {}, false).placement.policy == Policy::other);
  survey.realtime.highest = 1;
  CHECK(choose(spec, survey, {}, false).placement.policy == Policy::round_robin);
  survey.realtime.throttled = true;
  CHECK(choose(spec, survey, {}, false).placement.policy == Policy::other);
  survey.realtime.cgroup = "/sys/fs/cgroup/cpu/a";
  CHECK(choose(spec, survey).placement.policy == Policy::other);
  CHECK(choose(spec, survey).placement.reason.find("/sys/fs/cgroup/cpu/a") != std::string::npos);

  const Placement shared = choose(spec, look(tests::add_four_core_desktop, "2-3")).placement;
  CHECK(shared.policy == Policy::other);
  CHECK(shared.priority == 0);
  CHECK(shared.reason == "the host, or something else of the VM's, uses CPUs 1,5-6 too");
}

TEST_CASE("placement: real time that the config asks for is refused with the cause", "[plan]") {
  VmSpec::Cpu spec = guest(2, 2, listed("2-3,6-7"));
  spec.realtime = Realtime{Policy::fifo, 7, false, false};
  survey::Survey survey = look(tests::add_four_core_desktop, "2,6");
  CHECK(refusal_of(spec, survey) ==
        "10: Cannot schedule the vCPUs as SCHED_FIFO: the host uses the CPUs 3,7 too, or QEMU's "
        "other "
        "threads do, and a busy vCPU would keep them off; keep the host off from the boot on "
        "(isolcpus=2-3,6-7 on the kernel's command line), leave \"realtime\" to \"auto\", or add "
        "\"force\": true");
  survey.realtime.highest = 6;
  CHECK(refusal_of(spec, survey, false) ==
        "10: Cannot schedule the vCPUs as SCHED_FIFO: the limit of real-time priorities is 6 "
        "(RLIMIT_RTPRIO); type: vmlaunch setup FILE, or: sudo vmlaunch …");
  spec.realtime->force = true;
  const Chosen forced = choose(spec, survey);
  CHECK(forced.placement.policy == Policy::fifo);
  CHECK(forced.placement.priority == 7);
  CHECK_FALSE(forced.placement.from_start);
  CHECK_FALSE(forced.placement.lifts_throttling);  // it is what saves the host
  CHECK(forced.warnings.size() == 1);
  survey.realtime.cgroup = "/sys/fs/cgroup/cpu/a b";
  CHECK(
      refusal_of(spec, survey) ==
      "10: Cannot schedule the vCPUs as SCHED_FIFO: the cgroup /sys/fs/cgroup/cpu/a b has no time "
      "for real-time threads (CONFIG_RT_GROUP_SCHED); type: cat '/sys/fs/cgroup/cpu/a "
      "b/cpu.rt_runtime_us'");
  spec.realtime = Realtime{Policy::other};
  CHECK(choose(spec, survey).placement.policy == Policy::other);
}

TEST_CASE("placement: the picture shows each vCPU on its core, and what the host keeps", "[plan]") {
  const Chosen chosen = choose(guest(2, 2), look(tests::add_hybrid_desktop));
  CHECK(
      base::join(chosen.placement.picture, "\n") ==
      "socket 0, node 0, L3 cache of 36M for CPUs 0-31, performance cores\n"
      "  core of 2-3: vCPU 0 on 2, vCPU 1 on 3\n"
      "  core of 4-5: vCPU 2 on 4, vCPU 3 on 5\n"
      "  the host's: 0-1,6-15\n"
      "socket 0, node 0, L3 cache of 36M for CPUs 0-31, efficient cores\n"
      "  the host's: 16-31\n"
      "QEMU's other threads: 0-1,6-31\n"
      "the vCPUs are scheduled as SCHED_OTHER: the host, or something else of the VM's, uses CPUs "
      "2-5 too");
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
