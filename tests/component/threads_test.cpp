// QEMU's threads on CPUs of the host's, as the kernel says.

#include "tests/support/threads.hpp"

#include <sched.h>
#include <unistd.h>

#include <csignal>
#include <iterator>
#include <string>
#include <vector>

#include "base/cpu_set.hpp"
#include "tests/component/taken_over.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

/// The machine's first two CPUs.
base::CpuSet two_cpus() {
  base::CpuSet cpus = affinity_of(0);
  while (cpus.size() > 2) {
    cpus.erase(std::prev(cpus.end()));
  }
  return cpus;
}

bool skipped_without_cpus() {
  return skipped_without("a second CPU", two_cpus().size() == 2);
}

/// Two vCPUs on the machine's second CPU, and the rest on its first.
Json pinned_config() {
  const base::CpuSet cpus = two_cpus();
  Json config = idle_config();
  config["cpu"] = {{"cores", 2},
                   {"pin", {*cpus.rbegin(), *cpus.rbegin()}},
                   {"emulator", std::to_string(*cpus.begin())},
                   {"realtime", false}};
  return config;
}

/// A real QEMU with two vCPUs, of which the plan has places for.
TakenOver placed(launcher::config::Policy policy = launcher::config::Policy::other) {
  const base::CpuSet cpus = two_cpus();
  plan::Placement placement;
  placement.vcpus = {{*cpus.rbegin()}, {*cpus.rbegin()}};
  placement.rest = {*cpus.begin()};
  placement.policy = policy;
  placement.priority = policy == launcher::config::Policy::other ? 0 : 1;
  return TakenOver({{"cpu", {{"cores", 2}}}}, placement);
}

std::vector<pid_t> vcpu_threads(TakenOver& vm) {
  std::vector<pid_t> threads;
  const Json answer = vm.ask({{"execute", "query-cpus-fast"}});
  for (const Json& cpu : answer.at("return")) {
    threads.push_back(cpu.at("thread-id").get<pid_t>());
  }
  return threads;
}

std::string refusal_of(TakenOver& vm, const std::vector<pid_t>& threads, bool realtime = false) {
  const auto answer = vm.guardian().ask(guardian::Request(guardian::Schedule{threads, realtime}));
  REQUIRE(answer.has_value());
  const auto* refused = std::get_if<guardian::Refused>(&*answer);
  return refused == nullptr ? "" : refused->message;
}

}  // namespace

TEST_CASE("threads: vCPUs run where the config says, and all else of QEMU's beside them") {
  if (skipped_without_cpus()) {
    return;
  }
  const base::CpuSet cpus = two_cpus();
  const Folder folder;
  Program program(run_of(folder, pinned_config()));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  std::size_t vcpus = 0;
  for (const Thread& thread : threads_of(qemu_pid(program))) {
    INFO(to_string(thread));
    const bool is_vcpu = thread.name == "CPU " + std::to_string(vcpus) + "/TCG";
    vcpus += is_vcpu ? 1 : 0;
    CHECK(thread.cpus == base::CpuSet{is_vcpu ? *cpus.rbegin() : *cpus.begin()});
    CHECK(thread.policy == SCHED_OTHER);
  }
  CHECK(vcpus == 2);
  program.signal(SIGINT);
  CHECK(program.exit_code() == 18);
}

TEST_CASE("threads: a thread that is none of QEMU's is not placed, whoever names it") {
  if (skipped_without_root() || skipped_without_cpus()) {
    return;
  }
  TakenOver vm = placed();
  const std::vector<pid_t> own = vcpu_threads(vm);
  const auto state = vm.guardian().ask(guardian::Request(guardian::Status{}));
  const pid_t qemu = std::get<guardian::StatusReply>(*state).pid;
  const std::vector<Thread> before = threads_of(qemu);
  const base::CpuSet self = affinity_of(0);
  const base::CpuSet first = affinity_of(1);
  const pid_t guardian = parent_of(qemu);
  const base::CpuSet guardians = affinity_of(guardian);
  for (const pid_t stranger : {::getpid(), pid_t{1}, guardian, pid_t{0x7ffffff0}}) {
    CHECK(refusal_of(vm, {stranger, own[1]}) ==
          "Cannot place QEMU's threads: thread " + std::to_string(stranger) + " is none of QEMU's");
  }
  // One for two, two for one, and one too many.
  CHECK(refusal_of(vm, {own[0]}).ends_with("QEMU names 1 threads for 2 vCPUs"));
  CHECK(refusal_of(vm, {own[0], own[0]}).ends_with("QEMU names 1 threads for 2 vCPUs"));
  CHECK(refusal_of(vm, {own[0], own[1], qemu}).ends_with("QEMU names 3 threads for 2 vCPUs"));
  CHECK(threads_of(qemu) == before);
  CHECK(affinity_of(0) == self);
  CHECK(affinity_of(1) == first);
  CHECK(affinity_of(guardian) == guardians);
  CHECK(refusal_of(vm, own).empty());
  CHECK(affinity_of(own[0]) == base::CpuSet{*two_cpus().rbegin()});
  CHECK(affinity_of(qemu) == base::CpuSet{*two_cpus().begin()});
  CHECK(affinity_of(0) == self);
}

TEST_CASE("threads: a QEMU that names a stranger's thread is ended, and the stranger left alone") {
  if (skipped_without_cpus()) {
    return;
  }
  const base::CpuSet self = affinity_of(0);
  const base::CpuSet first = affinity_of(1);
  for (const pid_t stranger : {::getpid(), pid_t{1}}) {
    const Folder folder;
    Json config = probe_config({"thread=" + std::to_string(stranger)});
    config["cpu"] = {{"pin", std::to_string(*two_cpus().rbegin())}};
    Program program(run_of(folder, config));
    const int code = program.exit_code();
    INFO(program.output());
    CHECK(code == 15);
    CHECK(program.output().find("thread " + std::to_string(stranger) + " is none of QEMU's") !=
          std::string::npos);
    CHECK(program.output().find("host restored") != std::string::npos);
  }
  CHECK(affinity_of(0) == self);
  CHECK(affinity_of(1) == first);
}

TEST_CASE("threads: QEMU cannot move its own") {
  if (skipped_without_root() || skipped_without_cpus()) {
    return;
  }
  TakenOver vm = placed();
  const std::vector<pid_t> own = vcpu_threads(vm);
  REQUIRE(refusal_of(vm, own).empty());
  // A context for threads with an affinity is how a monitor asks QEMU for it.
  CHECK(vm.refusal("object-add",
                   {{"qom-type", "thread-context"}, {"id", "x"}, {"cpu-affinity", {0, 1}}}) !=
        "nothing");
  CHECK(affinity_of(own[0]) == base::CpuSet{*two_cpus().rbegin()});
}

TEST_CASE("threads: a plan without places has none that could be placed") {
  if (skipped_without_root()) {
    return;
  }
  TakenOver vm;
  const std::vector<pid_t> own = vcpu_threads(vm);
  CHECK_FALSE(vm.guardian().ask(guardian::Request(guardian::Schedule{own, false})).has_value());
}

TEST_CASE("threads: vCPUs get the plan's policy and give it back, or it is said why not") {
  if (skipped_without_root() || skipped_without_cpus()) {
    return;
  }
  TakenOver vm = placed(launcher::config::Policy::round_robin);
  const std::vector<pid_t> own = vcpu_threads(vm);
  const std::string refusal = refusal_of(vm, own, true);
  if (!refusal.empty()) {
    // Where the kernel divides real time among cgroups, or root is not all-powerful.
    INFO(refusal);
    CHECK((refusal.find("has no time for real-time threads (CONFIG_RT_GROUP_SCHED); type: cat ") !=
               std::string::npos ||
           refusal.find("this root lacks CAP_SYS_NICE") != std::string::npos));
    return;
  }
  CHECK(::sched_getscheduler(own[0]) == (SCHED_RR | SCHED_RESET_ON_FORK));
  CHECK(refusal_of(vm, own, false).empty());
  CHECK((::sched_getscheduler(own[0]) & ~SCHED_RESET_ON_FORK) == SCHED_OTHER);
}
