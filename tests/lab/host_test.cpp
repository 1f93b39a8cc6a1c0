#include <fstream>
#include <string>

#include "tests/component/vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

namespace {

constexpr unsigned k2M = 2U << 20U;

Json host() {
  Program program(command_of({"host", "--json"}));
  INFO(program.output());
  REQUIRE(program.exit_code() == 0);
  return Json::parse(program.output());
}

/// The pool of 2M pages among those of a node, or of the host.
Json small_pool(const Json& pools) {
  for (const Json& pool : pools) {
    if (pool["size"] == k2M) {
      return pool;
    }
  }
  return {};
}

void set_pages(unsigned count) {
  std::ofstream("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages") << count;
}

}  // namespace

TEST_CASE("host: it is told what the machine is", "[intel]") {
  const Json data = host();
  CHECK(data["iommu"] == true);
  CHECK(data["advice"].empty());
  CHECK(data["iommu_table"] == "DMAR");
  // Of a q35 machine.
  CHECK(data["devices"][0]["address"] == "0000:00:00.0");
  CHECK(data["devices"][0]["device"] == "29c0");
  const Json& cpus = data["cpus"]["list"];
  REQUIRE(cpus.size() == 4);
  for (unsigned cpu = 0; cpu < 4; ++cpu) {
    CHECK(cpus[cpu]["number"] == cpu);
    CHECK(cpus[cpu]["node"] == cpu / 2);
    CHECK(cpus[cpu]["online"] == true);
  }
  const Json& nodes = data["memory"]["nodes"];
  REQUIRE(nodes.size() == 2);
  CHECK(nodes[0]["distances"] == Json::array({10, 20}));
  CHECK(nodes[1]["distances"] == Json::array({20, 10}));
  CHECK(nodes[1]["cpus"] == "2-3");
  CHECK(data["kvm"]["node"] == true);
  CHECK(data["kernel"]["modules"].contains("kvm_amd"));
  CHECK(data["kernel"]["command_line"] ==
        Json::array({"mitigations=off", "intel_iommu=on", "iommu=pt"}));
  CHECK(data["unseen"].empty());
}

TEST_CASE("host: huge pages are told by node", "[intel]") {
  REQUIRE(small_pool(host()["memory"]["huge_pages"])["total"] == 0);
  set_pages(4);
  const Json memory = host()["memory"];
  set_pages(0);
  CHECK(small_pool(memory["huge_pages"])["total"] == 4);
  CHECK(small_pool(memory["nodes"][0]["huge_pages"])["total"] == 0);
  CHECK(small_pool(memory["nodes"][1]["huge_pages"])["total"] == 4);
  CHECK(small_pool(memory["nodes"][1]["huge_pages"])["free"] == 4);
}

TEST_CASE("host: it is told why the IOMMU is off", "[none]") {
  const Json data = host();
  CHECK(data["iommu"] == false);
  CHECK(data["iommu_table"] == "");
  CHECK(data["advice"] ==
        Json::array({"AMD: the firmware shows none (no table IVRS): turn on AMD-Vi (also called "
                     "IOMMU) in the firmware's setup"}));
}
