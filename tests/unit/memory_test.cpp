#include "launcher/survey/memory.hpp"

#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/hosts.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using base::ByteSize;
using tests::PciTree;

/// What was found, and what was not seen.
struct Found {
  Memory memory;
  std::vector<std::string> unseen;
};

Found look(const PciTree& built) {
  const base::Tree tree = built.tree();
  Reader reader(tree);
  const Memory memory = look_at_memory(reader);
  return {memory, reader.unseen()};
}

TEST_CASE("memory: the host's, its nodes and its pools are what the kernel says", "[memory]") {
  PciTree built;
  tests::add_two_socket_server(built);
  const std::string pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
  built.write(pool + "/free_hugepages", "1000\n");
  built.write(pool + "/resv_hugepages", "24\n");
  built.write(pool + "/surplus_hugepages", "3\n");
  const Found found = look(built);
  CHECK(found.unseen.empty());
  CHECK(found.memory.total == ByteSize{128 * base::kGiB});
  CHECK(found.memory.available == ByteSize{100 * base::kGiB});
  CHECK(found.memory.overcommit == 0U);
  CHECK(found.memory.transparent == "madvise");
  CHECK(found.memory.pools == std::vector<HugePages>{{ByteSize{2 * base::kMiB}, 4096, 1000, 3, 24},
                                                     {ByteSize{base::kGiB}, 8, 8, 0, 0}});
  REQUIRE(found.memory.nodes.size() == 2);
  const Node expected = {
      1,
      base::parse_cpu_set("10-19,30-39").value(),
      ByteSize{64 * base::kGiB},
      ByteSize{60 * base::kGiB},
      ByteSize{60 * base::kGiB},
      {21, 10},
      {{ByteSize{2 * base::kMiB}, 2048, 2048, 0, {}}, {ByteSize{base::kGiB}, 0, 0, 0, {}}}};
  CHECK(found.memory.nodes[1] == expected);
}

TEST_CASE("memory: of a node counts what is free and what files and inodes would give up",
          "[memory]") {
  PciTree built;
  const std::string folder = "/sys/devices/system/node/node1";
  built.write(folder + "/meminfo",
              "Node 1 MemTotal:       1000 kB\nNode 1 MemFree:          100 kB\n"
              "Node 1 Active(file):     20 kB\nNode 1 Inactive(file):    3 kB\n"
              "Node 1 SReclaimable:      4 kB\n");
  built.write(folder + "/hugepages/hugepages-2048kB/free_hugepages", "7\n");
  const Found found = look(built);
  REQUIRE(found.memory.nodes.size() == 1);
  const Node& node = found.memory.nodes.front();
  CHECK(node.available == ByteSize{127 * base::kKiB});
  REQUIRE(node.pool({2 * base::kMiB}) != nullptr);
  CHECK(node.pool({2 * base::kMiB})->free == 7);
  CHECK(node.pool({base::kGiB}) == nullptr);
}

TEST_CASE("memory: a kernel without NUMA and huge pages says nothing of them", "[memory]") {
  PciTree built;
  built.write("/proc/meminfo", "MemTotal:       2048 kB\n");
  const Found found = look(built);
  Memory expected;
  expected.total = ByteSize{2 * base::kMiB};
  CHECK(found.memory == expected);
  CHECK(found.unseen.empty());
}

TEST_CASE("hostile memory: what no kernel says is not understood, and the rest is told",
          "[memory]") {
  struct Row {
    const char* path;
    const char* content;
    const char* shown;
  };
  const std::string node = "/sys/devices/system/node/node0";
  for (const Row& row :
       {Row{"/proc/meminfo", "MemTotal: much\n", "MemTotal: much"},
        Row{"/proc/meminfo",
            "MemTotal: 99999999999999999999 kB\n",
            "MemTotal: 99999999999999999999 kB"},
        Row{"/proc/sys/vm/overcommit_memory", "3\n", "3"},
        Row{"/sys/kernel/mm/transparent_hugepage/enabled", "always madvise\n", "always madvise"},
        Row{"/sys/kernel/mm/transparent_hugepage/enabled", "[always\n", "[always"},
        Row{"/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "\x1b[2J\n", "\x1b[2J"},
        Row{"/sys/devices/system/node/node0/distance", "10 x\n", "10 x"},
        Row{"/sys/devices/system/node/node0/cpulist", "7-0\n", "7-0"}}) {
    INFO(row.path << " " << row.content);
    PciTree built;
    tests::add_four_core_desktop(built);
    built.write(row.path, row.content);
    const Found found = look(built);
    CHECK(found.unseen == std::vector<std::string>{std::string(row.path) +
                                                   ": not understood: " + quoted(row.shown)});
    CHECK(found.memory.nodes.size() == 1);
    CHECK(found.memory.pools.size() == 2);
  }
}

TEST_CASE("memory: names that are no pools and no nodes are left alone", "[memory]") {
  PciTree built;
  tests::add_four_core_desktop(built);
  for (const char* name : {"hugepages-", "hugepages-kB", "hugepages-64", "hugepages-064kB", "x"}) {
    built.folder(std::string("/sys/kernel/mm/hugepages/") + name);
  }
  built.folder("/sys/devices/system/node/node-1");
  built.folder("/sys/devices/system/node/power");
  const Found found = look(built);
  CHECK(found.memory.pools.size() == 2);
  CHECK(found.memory.nodes.size() == 1);
  CHECK(found.unseen.empty());
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
