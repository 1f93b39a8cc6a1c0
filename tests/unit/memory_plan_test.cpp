#include "launcher/exit_code.hpp"
#include "launcher/plan/memory.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using config::MemoryFallback;
using config::VmSpec;

constexpr std::uint64_t k2M = 2 * base::kMiB;

survey::Node node(unsigned number, std::uint64_t available, std::uint64_t free = 0) {
  survey::Node node;
  node.number = number;
  node.available = {available};
  node.pools = {{{k2M}, free, free, 0, {}}, {{base::kGiB}, 0, 0, 0, {}}};
  return node;
}

survey::Survey two_nodes() {
  survey::Survey survey;
  survey.nodes = {node(0, 4 * base::kGiB), node(1, 6 * base::kGiB)};
  return survey;
}

VmSpec::Memory huge(std::uint64_t page, std::vector<unsigned> nodes = {}) {
  VmSpec::Memory memory;
  memory.size = {4 * base::kGiB};
  memory.hugepages = VmSpec::HugePages{{page}};
  memory.nodes = std::move(nodes);
  return memory;
}

Memory choose(const VmSpec::Memory& spec, const survey::Survey& survey, bool privileged = true) {
  return choose_memory(spec, survey, {}, privileged);
}

std::string refusal_of(const VmSpec::Memory& spec,
                       const survey::Survey& survey,
                       bool privileged = true) {
  return tests::refusal([&] { static_cast<void>(choose(spec, survey, privileged)); });
}

TEST_CASE("memory: huge pages come from the node with the most room", "[plan]") {
  CHECK(choose(huge(k2M), two_nodes()).nodes == std::vector<unsigned>{1});
  survey::Survey survey = two_nodes();
  survey.nodes[0].pools[0].free = 2000;
  CHECK(choose(huge(k2M), survey).nodes == std::vector<unsigned>{0});
}

TEST_CASE("memory: huge pages come from the node of the guest's devices", "[plan]") {
  survey::Survey survey = two_nodes();
  tests::PciTree tree;
  tests::add_laptop(tree);
  tree.write(tree.device("0000:01:00.0") + "/numa_node", "0\n");
  tree.write(tree.device("0000:02:00.0") + "/numa_node", "1\n");
  survey.pci = survey::look_at_pci(tree.tree());
  Passthrough passthrough;
  passthrough.slots = {{{0, 1, 0, 0}}};
  CHECK(choose_memory(huge(k2M), survey, passthrough, true).nodes == std::vector<unsigned>{0});
  passthrough.slots.push_back({{0, 2, 0, 0}});  // they do not agree
  CHECK(choose_memory(huge(k2M), survey, passthrough, true).nodes == std::vector<unsigned>{1});
  passthrough.slots = {{{0, 1, 0, 1}}};  // it says -1
  CHECK(choose_memory(huge(k2M), survey, passthrough, true).nodes == std::vector<unsigned>{1});
}

TEST_CASE("memory: pages are spread evenly over the nodes that are listed", "[plan]") {
  VmSpec::Memory spec = huge(k2M, {1, 0});
  spec.size = {5 * k2M};
  const Memory memory = choose(spec, two_nodes());
  CHECK(memory.nodes == std::vector<unsigned>{1, 0});
  CHECK(memory.pages_of(0, spec.size) == 3);
  CHECK(memory.pages_of(1, spec.size) == 2);
}

TEST_CASE("memory: ordinary pages are bound to a node only if that was asked for", "[plan]") {
  VmSpec::Memory spec;
  CHECK(choose(spec, two_nodes()).nodes.empty());
  spec.nodes = {1};
  CHECK(choose(spec, two_nodes()).nodes == std::vector<unsigned>{1});
  spec.nodes = {2};
  CHECK(refusal_of(spec, two_nodes()) ==
        "10: Cannot use the memory node 2: this host has none of that number; type: ls "
        "/sys/devices/system/node");
}

TEST_CASE("memory: what cannot be had is refused with why", "[plan]") {
  CHECK(refusal_of(huge(k2M, {0}),
                   [] {
                     survey::Survey survey = two_nodes();
                     survey.nodes[0] = node(0, base::kGiB, 100);
                     return survey;
                   }()) ==
        "13: Cannot have huge pages of 2M: of 2048 huge pages of 2M on node 0 100 are free, and "
        "there is memory for 512 more; type: grep -e Free -e file "
        "/sys/devices/system/node/node*/meminfo");
  CHECK(refusal_of(huge(16 * base::kMiB), two_nodes()) ==
        "13: Cannot have huge pages of 16M: this host has none of that size, but 2M, 1G; type: ls "
        "/sys/kernel/mm/hugepages");
  CHECK(refusal_of(huge(k2M), {}) ==
        "13: Cannot have huge pages of 2M: this kernel shows no memory nodes; type: ls "
        "/sys/devices/system/node");
}

TEST_CASE("memory: without root only pages that are free count", "[plan]") {
  CHECK(refusal_of(huge(k2M, {0, 1}), two_nodes(), false) ==
        "13: Cannot have huge pages of 2M: of 1024 huge pages of 2M on node 0 0 are free, of 1024 "
        "huge pages of 2M on node 1 0 are free; type: echo 1024 | sudo tee "
        "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages && echo 1024 | "
        "sudo tee /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages, or: sudo "
        "vmlaunch …");
  survey::Survey survey = two_nodes();
  survey.nodes[1].pools[0].free = 2048;
  CHECK(choose(huge(k2M), survey, false).page == base::ByteSize{k2M});
}

TEST_CASE("memory: with a fallback smaller pages are taken, and that is told", "[plan]") {
  VmSpec::Memory spec = huge(base::kGiB);
  spec.hugepages->fallback = MemoryFallback::smaller;
  survey::Survey survey = two_nodes();
  Memory memory = choose(spec, survey);
  CHECK(memory.page == base::ByteSize{k2M});
  CHECK(memory.warning == "huge pages of 1G cannot be had: smaller pages are used instead");
  survey.nodes[1].pools[1].free = 4;
  memory = choose(spec, survey);
  CHECK(memory.page == base::ByteSize{base::kGiB});
  CHECK_FALSE(memory.warning);
  survey.nodes = {node(0, base::kGiB)};
  memory = choose(spec, survey);
  CHECK_FALSE(memory.page);
  CHECK(memory.nodes.empty());
  CHECK(memory.warning);
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
