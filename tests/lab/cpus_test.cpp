#include <sched.h>

#include <algorithm>
#include <csignal>
#include <string>
#include <vector>

#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/threads.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

const std::string kThrottling = "/proc/sys/kernel/sched_rt_runtime_us";

/// A guest under KVM whose firmware waits for ever.
Json pinned(const Json& cpu) {
  Json config = idle_config();
  config["accel"] = "kvm";
  config["cpu"] = cpu;
  return config;
}

std::string drawn(const std::vector<Thread>& threads) {
  std::string text;
  for (const Thread& thread : threads) {
    text += to_string(thread) + "\n";
  }
  return text;
}

/// Those of QEMU that are vCPUs, or the others.
std::vector<Thread> of_qemu(pid_t qemu, bool vcpus) {
  std::vector<Thread> threads = threads_of(qemu);
  std::erase_if(threads,
                [&](const Thread& thread) { return thread.name.starts_with("CPU ") != vcpus; });
  return threads;
}

void check_others(pid_t qemu, const base::CpuSet& cpus) {
  std::vector<Thread> others = of_qemu(qemu, false);
  REQUIRE_FALSE(others.empty());
  const std::vector<Thread> kernels = kernel_threads_of("-" + std::to_string(qemu));
  CHECK_FALSE(kernels.empty());  // KVM's, that splits huge pages
  others.insert(others.end(), kernels.begin(), kernels.end());
  INFO(drawn(others));
  CHECK(std::all_of(others.begin(), others.end(), [&](const Thread& thread) {
    return thread.cpus == cpus && thread.policy == SCHED_OTHER;
  }));
}

}  // namespace

TEST_CASE("cpus: vCPUs are on their CPUs with the policy that was asked for, all else beside them",
          "[intel][intel-6.12][each]") {
  const Folder folder;
  Program program(run_of(folder,
                         pinned({{"cores", 2},
                                 {"pin", {3, "2"}},
                                 {"emulator", "0-1"},
                                 {"realtime", {{"priority", 7}, {"force", true}}}})));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(said(program, "the kernel stops a busy real-time vCPU for a part of each second"));
  CHECK(contents(kThrottling) == "950000");
  const pid_t qemu = qemu_pid(program);
  const std::vector<Thread> vcpus = of_qemu(qemu, true);
  INFO(drawn(vcpus));
  REQUIRE(vcpus.size() == 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(vcpus[i].name == "CPU " + std::to_string(i) + "/KVM");
    CHECK(vcpus[i].cpus == base::CpuSet{i == 0 ? 3U : 2U});
    CHECK(vcpus[i].policy == (SCHED_RR | SCHED_RESET_ON_FORK));
    CHECK(vcpus[i].priority == 7);
  }
  check_others(qemu, {0, 1});
  // A guest that is told to stop keeps no CPU from the host.
  program.signal(SIGINT);
  CHECK(eventually([&] { return of_qemu(qemu, true).at(0).policy == SCHED_OTHER; }));
  program.signal(SIGINT);
  CHECK(program.exit_code() == 0);
}

TEST_CASE("cpus: without a word about real time, vCPUs beside the host's work are like all others",
          "[intel]") {
  const Folder folder;
  Program program(run_of(folder, pinned({{"cores", 2}, {"pin", "auto"}})));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  const std::vector<Thread> vcpus = of_qemu(qemu_pid(program), true);
  INFO(drawn(vcpus));
  REQUIRE(vcpus.size() == 2);
  for (const Thread& vcpu : vcpus) {
    CHECK(vcpu.cpus.size() == 1);
    CHECK(vcpu.policy == SCHED_OTHER);
  }
  CHECK(vcpus[0].cpus != vcpus[1].cpus);
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
}

TEST_CASE("cpus: where the kernel keeps the host off a CPU it is the guest's, in real time",
          "[amd][each]") {
  REQUIRE(contents("/sys/devices/system/cpu/isolated") == "3");
  const Folder folder;
  Program program(run_of(folder, pinned({{"cores", 1}, {"pin", "auto"}})));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(contents(kThrottling) == "-1");
  const pid_t qemu = qemu_pid(program);
  const std::vector<Thread> vcpus = of_qemu(qemu, true);
  INFO(drawn(vcpus));
  REQUIRE(vcpus.size() == 1);
  CHECK(vcpus[0].cpus == base::CpuSet{3});
  CHECK(vcpus[0].policy == (SCHED_RR | SCHED_RESET_ON_FORK));
  CHECK(vcpus[0].priority == 1);
  for (const Thread& other : of_qemu(qemu, false)) {
    CHECK_FALSE(other.cpus.contains(3));
  }
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
  CHECK(said(program, "host restored"));
  CHECK(contents(kThrottling) == "950000");
}

TEST_CASE("cpus: real time on CPUs that the host uses is refused", "[intel]") {
  const Folder folder;
  Program program(run_of(folder, pinned({{"cores", 2}, {"pin", "2-3"}, {"realtime", true}})));
  CHECK(program.exit_code() == 10);
  CHECK(said(program, "Cannot schedule the vCPUs as SCHED_RR: the host uses the CPUs 2-3 too"));
}
