#include "launcher/survey/cpus.hpp"

#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/hosts.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using base::CpuSet;
using base::parse_cpu_set;
using tests::PciTree;

constexpr const char* kCpus = "/sys/devices/system/cpu";

/// What was found, and what was not seen.
struct Found {
  Cpus cpus;
  std::vector<std::string> unseen;
};

Found look(const PciTree& built) {
  const base::Tree tree = built.tree();
  Reader reader(tree);
  const Cpus cpus = look_at_cpus(reader);
  return {cpus, reader.unseen()};
}

CpuSet of_kind(const Cpus& cpus, CoreKind kind) {
  CpuSet found;
  for (const Cpu& cpu : cpus.list) {
    if (cpu.kind == kind) {
      found.insert(cpu.number);
    }
  }
  return found;
}

CpuSet set(const std::string& text) {
  return parse_cpu_set(text).value();
}

PciTree& add_two_cores(PciTree& built, unsigned first_khz, unsigned second_khz) {
  add_core(
      built,
      {.threads = "0-1", .l2 = "1024K", .l3_cpus = "0-3", .l3 = "8192K", .max_khz = first_khz});
  add_core(built,
           {.threads = "2-3",
            .core = 1,
            .l2 = "1024K",
            .l3_cpus = "0-3",
            .l3 = "8192K",
            .max_khz = second_khz});
  return built;
}

TEST_CASE("cpus: a CPU is what its folder says", "[cpus]") {
  PciTree built;
  tests::add_two_socket_server(built);
  const Found found = look(built);
  REQUIRE(found.cpus.list.size() == 40);
  CHECK(found.unseen.empty());
  CHECK(found.cpus.model == "Intel(R) Xeon(R) CPU E5-2680 v2 @ 2.80GHz");
  const Cpu expected = {.number = 36,
                        .online = true,
                        .socket = 1,
                        .die = 0,
                        .core = 9,
                        .siblings = {16, 36},
                        .cache = Cache{3, base::ByteSize{25600 * base::kKiB}, set("10-19,30-39")},
                        .node = 1,
                        .kind = std::nullopt,
                        .max_khz = 3600000,
                        .governor = "ondemand"};
  CHECK(found.cpus.list[36] == expected);
}

TEST_CASE("cpus: a hybrid's cores are of the kinds that the kernel names", "[cpus]") {
  PciTree built;
  tests::add_hybrid_desktop(built);
  const Cpus cpus = look(built).cpus;
  CHECK(of_kind(cpus, CoreKind::performance) == set("0-15"));
  CHECK(of_kind(cpus, CoreKind::efficient) == set("16-31"));
  CHECK(cpus.list[3].siblings == CpuSet{2, 3});
  CHECK(cpus.list[19].siblings == CpuSet{19});
}

TEST_CASE("cpus: where the kernel names no kinds, capacity tells them, else frequency", "[cpus]") {
  PciTree built;
  tests::add_hybrid_desktop(built);
  built.remove("/sys/devices/cpu_atom");
  CHECK(of_kind(look(built).cpus, CoreKind::efficient) == set("16-31"));
  for (unsigned cpu = 0; cpu < 32; ++cpu) {
    built.write(std::string(kCpus) + "/cpu" + std::to_string(cpu) + "/cpu_capacity",
                cpu < 30 ? "1024\n" : "500\n");
  }
  CHECK(of_kind(look(built).cpus, CoreKind::efficient) == set("30-31"));
  CHECK(of_kind(look(built).cpus, CoreKind::performance) == set("0-29"));
}

TEST_CASE("cpus: cores that are only a little faster are of the same kind", "[cpus]") {
  PciTree built;
  tests::add_two_die_desktop(built);
  CHECK(of_kind(look(built).cpus, CoreKind::performance).empty());
  PciTree turbo;
  CHECK(of_kind(look(add_two_cores(turbo, 6000000, 5500000)).cpus, CoreKind::performance).empty());
  PciTree weak;
  CHECK(of_kind(look(add_two_cores(weak, 5100000, 3900000)).cpus, CoreKind::efficient) ==
        set("2-3"));
}

TEST_CASE("cpus: dies are told apart by the caches that their CPUs share", "[cpus]") {
  PciTree built;
  tests::add_two_die_desktop(built);
  const Cpus cpus = look(built).cpus;
  const Cache large = {3, base::ByteSize{96 * base::kMiB}, set("0-7,16-23")};
  const Cache small = {3, base::ByteSize{32 * base::kMiB}, set("8-15,24-31")};
  CHECK(cpus.list[0].cache == large);
  CHECK(cpus.list[23].cache == large);
  CHECK(cpus.list[8].cache == small);
  CHECK(cpus.isolated == set("1-7,17-23"));
  CHECK(cpus.nohz_full == set("1-7,17-23"));
  CHECK(cpus.rcu_nocbs == set("1-7,17-23"));
}

TEST_CASE("cpus: without a third-level cache the second level is the last", "[cpus]") {
  PciTree built;
  add_two_cores(built, 1000000, 1000000);
  for (const char* cpu : {"0", "1", "2", "3"}) {
    built.remove(std::string(kCpus) + "/cpu" + cpu + "/cache/index3");
  }
  CHECK(look(built).cpus.list[2].cache == Cache{2, base::ByteSize{base::kMiB}, {2, 3}});
}

TEST_CASE("cpus: of one that is offline only the number is told", "[cpus]") {
  PciTree built;
  tests::add_four_core_desktop(built);
  built.remove(std::string(kCpus) + "/cpu5");
  built.write(std::string(kCpus) + "/cpu5/online", "0\n");
  const Found found = look(built);
  REQUIRE(found.cpus.list.size() == 8);
  Cpu expected;
  expected.number = 5;
  expected.online = false;
  expected.node = 0;
  CHECK(found.cpus.list[5] == expected);
  CHECK(found.unseen.empty());
}

TEST_CASE("cpus: a kernel without cpufreq, NUMA and isolation says nothing of them", "[cpus]") {
  PciTree built;
  built.write(std::string(kCpus) + "/cpu0/topology/physical_package_id", "-1\n");
  built.write(std::string(kCpus) + "/nohz_full", " (null)\n");
  for (const char* other : {"/cpufreq", "/cpuidle", "/cpu", "/cpu01", "/cpux", "/power"}) {
    built.folder(kCpus + std::string(other));
  }
  const Found found = look(built);
  REQUIRE(found.cpus.list.size() == 1);
  Cpu expected;
  expected.siblings = {0};
  CHECK(found.cpus.list[0] == expected);
  CHECK(found.cpus.nohz_full.empty());
  CHECK(found.unseen.empty());
}

TEST_CASE("cpus: RCU's callbacks may be kept off all CPUs", "[cpus]") {
  PciTree built;
  tests::add_four_core_desktop(built);
  built.write("/proc/cmdline", "rcu_nocbs=all\n");
  CHECK(look(built).cpus.rcu_nocbs == set("0-7"));
}

TEST_CASE("hostile cpus: what no kernel says is not understood, and the rest is told", "[cpus]") {
  struct Row {
    const char* path;
    const char* content;
  };
  for (const Row& row : {Row{"/cpu1/topology/core_id", "one"},
                         Row{"/cpu1/topology/thread_siblings_list", "0-99999999999"},
                         Row{"/cpu1/topology/thread_siblings_list", "5,\x1b[2J"},
                         Row{"/cpu1/topology/physical_package_id", "0x1"},
                         Row{"/cpu1/cache/index3/size", "lots"},
                         Row{"/cpu1/cache/index3/shared_cpu_list", "4-1"},
                         Row{"/cpu1/cache/index2/level", "-2"},
                         Row{"/cpu1/cpufreq/cpuinfo_max_freq", "fast"},
                         Row{"/cpu1/online", "maybe"},
                         Row{"/isolated", "some"},
                         Row{"/nohz_full", "none"}}) {
    INFO(row.path << " " << row.content);
    PciTree built;
    tests::add_four_core_desktop(built);
    built.write(std::string(kCpus) + row.path, std::string(row.content) + "\n");
    const Found found = look(built);
    CHECK(found.unseen == std::vector<std::string>{std::string(kCpus) + row.path +
                                                   ": not understood: " + quoted(row.content)});
    CHECK(found.cpus.list.size() == 8);
    CHECK(found.cpus.list[2].core == 2U);
  }
}

TEST_CASE("hostile cpus: words of the command line that are no list are not understood", "[cpus]") {
  PciTree built;
  tests::add_four_core_desktop(built);
  built.write("/proc/cmdline", "rcu_nocbs=0-31:2/4\n");
  CHECK(look(built).unseen ==
        std::vector<std::string>{"/proc/cmdline: not understood: \"rcu_nocbs=0-31:2/4\""});
}

TEST_CASE("hostile cpus: what is no small file cannot be read, and none hangs", "[cpus]") {
  PciTree built;
  tests::add_four_core_desktop(built);
  built.fifo(std::string(kCpus) + "/cpu1/topology/core_id");
  built.remove(std::string(kCpus) + "/isolated");
  built.folder(std::string(kCpus) + "/isolated");
  CHECK(look(built).unseen ==
        std::vector<std::string>{std::string(kCpus) + "/cpu1/topology/core_id: it cannot be read",
                                 std::string(kCpus) + "/isolated: it cannot be read"});
}

TEST_CASE("cpus: this machine's own are those of the kernel's list", "[cpus]") {
  const base::Tree host("");
  Reader reader(host);
  CpuSet online;
  for (const Cpu& cpu : look_at_cpus(reader).list) {
    if (cpu.online) {
      online.insert(cpu.number);
      CHECK(cpu.siblings.contains(cpu.number));
    }
  }
  CHECK(online == set(host.read(std::string(kCpus) + "/online").value_or("")));
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
