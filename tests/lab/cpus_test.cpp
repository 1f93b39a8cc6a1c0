#include <sched.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <sstream>
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

/// QEMU's other threads and KVM's for it, which comes with the guest's first instruction; on newer
/// kernels it is a thread of QEMU's.
void check_others(pid_t qemu, const base::CpuSet& cpus) {
  const auto others = [&] {
    std::vector<Thread> all = of_qemu(qemu, false);
    const std::vector<Thread> kernels = kernel_threads_of("-" + std::to_string(qemu));
    all.insert(all.end(), kernels.begin(), kernels.end());
    return all;
  };
  const auto kvm = [](const Thread& thread) { return thread.name.starts_with("kvm-nx-lpage"); };
  const bool placed = eventually([&] {
    const std::vector<Thread> all = others();
    return std::any_of(all.begin(), all.end(), kvm) &&
           std::all_of(all.begin(), all.end(), [&](const Thread& thread) {
             return thread.cpus == cpus && thread.policy == SCHED_OTHER;
           });
  });
  INFO(drawn(others()));
  CHECK(placed);
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
  // Since 6.12 it does not: others have a server of their own for a part of it.
  CHECK(said(program, "the kernel stops a busy real-time vCPU for a part of each second") ==
        (machine_name() == "intel"));
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
  CHECK(eventually(
      [&] { return of_qemu(qemu, true).at(0).policy == (SCHED_OTHER | SCHED_RESET_ON_FORK); }));
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

TEST_CASE(
    "cpus: where the kernel keeps the host off a core its threads are the guest's, in real time",
    "[isolated]") {
  REQUIRE(contents("/sys/devices/system/cpu/isolated") == "2-3");
  const Folder folder;
  Json config = idle_config();
  config["cpu"] = {{"cores", 1}, {"threads", 2}, {"pin", "auto"}};
  Program program(run_of(folder, config));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(contents(kThrottling) == "-1");
  const pid_t qemu = qemu_pid(program);
  const std::vector<Thread> vcpus = of_qemu(qemu, true);
  INFO(drawn(vcpus));
  REQUIRE(vcpus.size() == 2);
  for (unsigned i = 0; i < 2; ++i) {
    CHECK(vcpus[i].cpus == base::CpuSet{2 + i});
    CHECK(vcpus[i].policy == (SCHED_RR | SCHED_RESET_ON_FORK));
    CHECK(vcpus[i].priority == 1);
  }
  // Another has no CPUs of that kind left.
  config["name"] = "second";
  config["cpu"]["pin"] = "2-3";
  Program second(run_of(folder, config, "second.json"));
  CHECK(second.exit_code() == 21);
  CHECK(said(second, "Cannot take cpu 2: the VM idle"));
  for (const Thread& other : of_qemu(qemu, false)) {
    INFO(to_string(other));
    CHECK(base::common(other.cpus, {2, 3}).empty());
  }
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
  CHECK(said(program, "host restored"));
  CHECK(contents(kThrottling) == "950000");
}

TEST_CASE("cpus: a plan draws the threads of a core together, and says what is poor",
          "[isolated]") {
  const Folder folder;
  Json config = idle_config();
  config["cpu"] = {{"cores", 1}, {"threads", 2}, {"pin", "2-3"}};
  Program good(command_of({"plan", folder.write("vm.json", config.dump())}));
  CHECK(good.exit_code() == 0);
  CHECK(said(good, "core of 2-3: vCPU 0 on 2, vCPU 1 on 3"));
  CHECK(said(good, "SCHED_RR, priority 1: the kernel keeps the host off these CPUs (isolcpus)"));
  CHECK_FALSE(said(good, "warning: vCPUs"));
  config["cpu"]["pin"] = {1, 3};
  Program poor(command_of({"plan", folder.write("vm.json", config.dump())}));
  CHECK(poor.exit_code() == 0);
  CHECK(
      said(poor, "vCPUs 0-1 are threads of one core for the guest, and of several of the host's"));
}

TEST_CASE("cpus: nothing of the host runs on CPUs that are isolated for a guest",
          "[intel-6.12][each]") {
  const std::string isolated = "/sys/fs/cgroup/cpuset.cpus.isolated";
  const std::string server = "/sys/kernel/debug/sched/fair_server/cpu3/runtime";
  const std::string time = contents(server);
  REQUIRE(time != "0");
  REQUIRE(contents(isolated).empty());
  const Folder folder;
  Program program(run_of(
      folder, pinned({{"cores", 2}, {"pin", "2-3"}, {"isolate", true}, {"halt_polling", false}})));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(contents(isolated) == "2-3");
  CHECK(contents(server) == "0");
  CHECK(contents(kThrottling) == "-1");
  CHECK(contents("/proc/sys/vm/stat_interval") == "120");
  CHECK(contents("/sys/module/kvm/parameters/halt_poll_ns") == "0");
  CHECK(contents("/proc/irq/default_smp_affinity") == "3");
  const pid_t qemu = qemu_pid(program);
  const std::vector<Thread> vcpus = of_qemu(qemu, true);
  INFO(drawn(vcpus));
  REQUIRE(vcpus.size() == 2);
  for (unsigned i = 0; i < 2; ++i) {
    CHECK(vcpus[i].cpus == base::CpuSet{2 + i});
    CHECK(vcpus[i].policy == (SCHED_RR | SCHED_RESET_ON_FORK));
    CHECK(contents("/proc/" + std::to_string(vcpus[i].id) + "/cgroup").ends_with("/vcpus"));
  }
  check_others(qemu, {0, 1});
  // The host's own tasks, as the first: none of them may be there.
  CHECK(affinity_of(1) == base::CpuSet{0, 1});
  CHECK(affinity_of(0) == base::CpuSet{0, 1});
  // An interrupt that was on all CPUs.
  std::size_t moved = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/irq")) {
    const std::string cpus = contents(entry.path() / "smp_affinity_list");
    moved += cpus == "0-1" ? 1U : 0U;
  }
  CHECK(moved > 3);
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
  CHECK(said(program, "host restored"));
  CHECK(contents(isolated).empty());
  CHECK(contents(server) == time);
}

TEST_CASE("cpus: CPUs that one guest has isolated are refused to another", "[intel-6.12]") {
  const Folder folder;
  Json config = pinned({{"cores", 1}, {"pin", "3"}, {"isolate", {"tasks"}}});
  Program first(run_of(folder, config));
  REQUIRE(first.says("] running"));
  config["name"] = "second";
  Program second(run_of(folder, config, "second.json"));
  CHECK(second.exit_code() == 21);
  CHECK(said(second, "Cannot take cpu 3: the VM idle"));
  config["cpu"]["pin"] = "auto";
  Program third(run_of(folder, config, "second.json"));
  const bool running = third.says("] running");
  INFO(third.output());
  REQUIRE(running);
  CHECK(contents("/sys/fs/cgroup/cpuset.cpus.isolated") == "2-3");
  for (Program* program : {&first, &third}) {
    program->signal(SIGINT);
    program->signal(SIGINT);
    static_cast<void>(program->exit_code());
    CHECK(said(*program, "host restored"));
  }
}

TEST_CASE("cpus: an isolated partition is refused where the kernel makes none, with what does it",
          "[intel]") {
  const Folder folder;
  Program program(run_of(folder, pinned({{"cores", 1}, {"pin", "3"}, {"isolate", true}})));
  CHECK(program.exit_code() == 10);
  CHECK(said(program,
             "this kernel makes no isolated partition below a VM's cgroup (Linux 6.8 does)"));
  CHECK(said(program, "isolcpus=3 on the kernel's command line"));
}

TEST_CASE("cpus: beside the host's work a guest comes first by its cgroup's weight", "[intel]") {
  const Folder folder;
  Program program(run_of(folder, pinned({{"cores", 1}, {"pin", "3"}})));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  const std::string line = contents("/proc/" + std::to_string(qemu_pid(program)) + "/cgroup");
  CHECK(contents("/sys/fs/cgroup" + line.substr(3) + "/cpu.weight") == "10000");
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
}

TEST_CASE(
    "cpus: an interrupt of a passed NIC's is on a CPU of its guest's, and again after a reset",
    "[intel]") {
  const Folder folder;
  Json config = nic_guest(device::nic, "demo.stay");
  config["cpu"] = {{"cores", 1}, {"pin", "2"}, {"isolate", {"interrupts"}}};
  Program program(run_of(folder, config));
  const bool ready = program.says("vmlaunch demo guest: ready", Seconds(120));
  INFO(program.output());
  REQUIRE(ready);
  const auto vfio_on_its_cpu = [] {
    std::istringstream lines(contents("/proc/interrupts"));
    for (std::string line; std::getline(lines, line);) {
      if (line.find("vfio-") != std::string::npos &&
          line.find("(" + device::nic + ")") != std::string::npos) {
        const std::string number = line.substr(0, line.find(':'));
        const std::string file =
            "/proc/irq/" + number.substr(number.find_first_not_of(' ')) + "/smp_affinity_list";
        return contents(file) == "2";
      }
    }
    return false;
  };
  INFO(contents("/proc/interrupts"));
  CHECK(eventually(vfio_on_its_cpu, Seconds(40)));
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
  CHECK(said(program, "host restored"));
}

TEST_CASE("cpus: real time on CPUs that the host uses is refused", "[intel]") {
  const Folder folder;
  Program program(run_of(folder, pinned({{"cores", 2}, {"pin", "2-3"}, {"realtime", true}})));
  CHECK(program.exit_code() == 10);
  CHECK(said(program, "Cannot schedule the vCPUs as SCHED_RR: the host uses the CPUs 2-3 too"));
}
