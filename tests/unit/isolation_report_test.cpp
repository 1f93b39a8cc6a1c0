#include <string>

#include "base/affinity.hpp"
#include "launcher/isolation/report.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::isolation {
namespace {

using tests::PciTree;

/// As proc(5) has it, on a CPU, with a kernel thread's flag or not.
void add_thread(const PciTree& tree,
                const std::string& process,
                const std::string& thread,
                const std::string& name,
                unsigned cpu,
                bool is_kernel,
                const std::string& schedstat,
                unsigned involuntary = 0,
                unsigned started = 33) {
  const std::string folder = "/proc/" + process + "/task/" + thread;
  tree.write(folder + "/stat",
             thread + " (" + name + ") S 1 0 0 0 -1 " + (is_kernel ? "2129984" : "4194560") +
                 " 0 0 0 0 5 6 0 0 20 0 1 0 " + std::to_string(started) +
                 " 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 0 0 0 17 " +
                 std::to_string(cpu) + " 0 0 0 0 0\n");
  tree.write(folder + "/schedstat", schedstat + "\n");
  tree.write(folder + "/status",
             "Name:\t" + name + "\nvoluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t" +
                 std::to_string(involuntary) + "\n");
}

/// A host with four CPUs, a guest on the third.
void add_host(const PciTree& tree, bool later) {
  add_thread(tree, "100", "100", "qemu", 0, false, later ? "900 1 3" : "100 1 1");
  add_thread(tree,
             "100",
             "101",
             "CPU 0/KVM",
             2,
             false,
             later ? "5000000000 3000 7" : "1000000000 1000 5",
             later ? 4 : 1);
  add_thread(tree, "30", "30", "kworker/2:1", 2, true, later ? "2500000 0 12" : "500000 0 2");
  add_thread(tree, "40", "40", "a (b) c", 2, false, "7000 0 7");  // it did not run
  add_thread(tree, "50", "50", "far", 1, false, later ? "9000 0 9" : "1 0 1");
  tree.write(
      "/proc/interrupts",
      std::string("            CPU0       CPU1       CPU2       CPU3\n") +
          "  0:         17          0          0          0   IO-APIC   2-edge      timer\n" +
          " 24:          1          2          " + (later ? "9" : "3") +
          "          4  IR-PCI-MSI 1-edge      vfio-msix[0](0000:03:00.0)\n" +
          "LOC:         10         20         " + (later ? "130" : "30") +
          "         40   Local timer interrupts\nERR:          0\n");
  tree.write("/proc/softirqs",
             std::string("                    CPU0       CPU1       CPU2       CPU3\n") +
                 "         RCU:         0          0         " + (later ? "6" : "5") +
                 "          0\n");
  tree.write("/proc/stat",
             std::string("cpu  1 2 3 4 5 6 7 8 9 10\ncpu2 ") +
                 (later ? "505 2 3 99 5 6 7 20" : "100 2 3 4 5 6 7 10") + " 9 10\nintr 5\n");
  tree.write("/sys/devices/system/cpu/cpu2/thermal_throttle/core_throttle_count",
             later ? "5\n" : "3\n");
  tree.write("/proc/101/cgroup", "0::/vm.slice/vm\n");
  tree.write("/sys/fs/cgroup/vm.slice/vm/cpu.stat", "usage_usec 5\n");
  tree.write("/sys/fs/cgroup/vm.slice/cpu.stat",
             std::string("usage_usec 5\nnr_periods 1\nnr_throttled 1\nthrottled_usec ") +
                 (later ? "1700" : "500") + "\n");
}

Report report_of_guest() {
  PciTree tree;
  add_host(tree, false);
  Counters before = count(tree.tree(), {2, 3}, {101});
  add_host(tree, true);
  Counters after = count(tree.tree(), {2, 3}, {101});
  after.taken = before.taken + std::chrono::seconds(5);
  return compare(before, after, {2, 3}, {101});
}

TEST_CASE("isolation: who ran on a guest's CPUs is told, longest first, and the guest apart",
          "[isolation]") {
  const Report report = report_of_guest();
  REQUIRE(report.cpus.size() == 2);
  const CpuReport& cpu = report.cpus[0];
  CHECK(cpu.cpu == 2);
  REQUIRE(cpu.guests.size() == 1);
  CHECK(cpu.guests[0].thread == 101);
  CHECK(cpu.guests[0].time.ran_ns == 4000000000);
  CHECK(cpu.guests[0].time.waited_ns == 2000);
  CHECK(cpu.guests[0].time.turns == 2);
  CHECK(cpu.guests[0].time.involuntary == 3);
  REQUIRE(cpu.others.size() == 1);
  CHECK(cpu.others[0].time.name == "kworker/2:1");
  CHECK(cpu.others[0].time.is_kernel);
  CHECK(cpu.others[0].time.ran_ns == 2000000);
  CHECK(cpu.others[0].time.turns == 10);
  CHECK(report.cpus[1].guests.empty());
  CHECK(report.cpus[1].others.empty());
}

TEST_CASE("isolation: interrupts are counted for each CPU, by the names of their drivers",
          "[isolation]") {
  const Report report = report_of_guest();
  const std::vector<std::pair<std::string, std::uint64_t>> expected = {
      {"Local timer interrupts", 100}, {"24 vfio-msix[0](0000:03:00.0)", 6}, {"softirq RCU", 1}};
  CHECK(report.cpus[0].interrupts == expected);
  CHECK(report.cpus[1].interrupts.empty());
}

TEST_CASE("isolation: how busy a CPU was is told, and what no thread accounts for", "[isolation]") {
  const Report report = report_of_guest();
  CHECK(report.cpus[0].time.busy_ms == 4150);
  CHECK(report.cpus[0].rest_ms == 148);  // beside 4000 of the vCPU and 2 of a kworker
  CHECK(report.cpus[0].time.stolen_ms == 100);
  CHECK(report.cpus[0].time.too_hot == 2);
  CHECK(report.cpus[1].time.busy_ms == 0);
  const std::vector<std::pair<std::string, std::uint64_t>> expected = {{"/vm.slice", 1200}};
  CHECK(report.throttled_us == expected);
}

TEST_CASE(
    "isolation: a thread that came from another CPU is marked, and a number's next owner "
    "counts from nothing",
    "[isolation]") {
  PciTree tree;
  add_thread(tree, "60", "60", "comes", 1, false, "1000 0 1");
  add_thread(tree, "70", "70", "first", 2, false, "9000 0 9", 0, 33);
  const Counters before = count(tree.tree(), {2}, {});
  add_thread(tree, "60", "60", "comes", 2, false, "4000 0 2");
  add_thread(tree, "70", "70", "second", 2, false, "9500 0 10", 0, 44);
  const Report report = compare(before, count(tree.tree(), {2}, {}), {2}, {});
  REQUIRE(report.cpus[0].others.size() == 2);
  CHECK(report.cpus[0].others[0].time.name == "second");
  CHECK(report.cpus[0].others[0].time.ran_ns == 9500);
  CHECK_FALSE(report.cpus[0].others[0].has_come);
  CHECK(report.cpus[0].others[1].time.ran_ns == 3000);
  CHECK(report.cpus[0].others[1].has_come);
  CHECK(to_text(report).find("2 turns, a part of it elsewhere\n") == std::string::npos);
  CHECK(to_text(report).find("1 turns, a part of it elsewhere\n") != std::string::npos);
}

TEST_CASE("isolation: the report is told to people and to programs", "[isolation]") {
  Report report = report_of_guest();
  Probe probe;
  probe.gaps.add(1500);
  probe.gaps.add(1900);
  probe.gaps.add(70'000);
  report.cpus[1].probe = probe;
  CHECK(to_text(report) ==
        "CPU 2, for 5.00 s\n"
        "  busy 83.00 % of the time; 2.96 % with interrupts, and tasks that ended or moved on\n"
        "  a hypervisor above this host took 100 ms\n"
        "  too hot, and slowed down, 2 times\n"
        "  CPU 0/KVM (100, thread 101) ran 80.00 % of the time, was interrupted by a task 3 times, "
        "and waited for the CPU 2 us in 2 turns, 1 us each on average\n"
        "  [kworker/2:1] ran 0.04 %, 2.0 ms in 10 turns\n"
        "  107 interrupts: 100 Local timer interrupts, 6 24 vfio-msix[0](0000:03:00.0), 1 softirq "
        "RCU\n"
        "\n"
        "CPU 3, for 5.00 s\n"
        "  busy 0.00 % of the time\n"
        "  no other task ran\n"
        "  0 interrupts\n"
        "  gaps in a loop that looks at the clock: the longest 70 us\n"
        "    <       2 us  ######################################## 2\n"
        "    <     128 us  #################### 1\n"
        "  from a timer's end to the thread that waits for it: the longest 0 us\n"
        "\n"
        "The quota of the cgroup /vm.slice stopped the vCPUs for 1.2 ms\n");
  const nlohmann::json json = to_json(report);
  CHECK(json.at("nanoseconds") == 5000000000);
  CHECK(json.at("/cpus/0/others/0/ran_ns"_json_pointer) == 2000000);
  CHECK(json.at("/cpus/0/interrupts/softirq RCU"_json_pointer) == 1);
  CHECK(json.at("/cpus/0/gaps"_json_pointer).is_null());
  CHECK(json.at("/cpus/1/gaps/longest_ns"_json_pointer) == 70000);
}

TEST_CASE("isolation: a histogram puts each time into the power of two above it", "[isolation]") {
  Histogram histogram;
  for (const std::uint64_t time : {0UL, 999UL, 1000UL, 1999UL, 2000UL, 4000UL, 1UL << 60U}) {
    histogram.add(time);
  }
  CHECK(histogram.counts[0] == 2);
  CHECK(histogram.counts[1] == 2);
  CHECK(histogram.counts[2] == 1);
  CHECK(histogram.counts[3] == 1);
  CHECK(histogram.counts.back() == 1);
  CHECK(histogram.longest_ns == 1UL << 60U);
}

TEST_CASE("isolation: a probe finds what a CPU is like for who has it", "[isolation]") {
  const base::CpuSet own = {*base::affinity_of(0).begin()};
  const auto probes = probe(own, std::chrono::milliseconds(200));
  REQUIRE(probes.size() == 1);
  CHECK(probes[0].first == *own.begin());
  std::uint64_t wakings = 0;
  for (const std::uint64_t times : probes[0].second.wakings.counts) {
    wakings += times;
  }
  CHECK(wakings > 10);  // of a hundred, however busy the machine is
  CHECK(wakings <= 100);
  CHECK(probes[0].second.wakings.longest_ns > 0);
  // One that is not there is left out.
  CHECK(probe({8000}, std::chrono::milliseconds(10)).empty());
}

}  // namespace
}  // namespace vmlaunch::launcher::isolation
