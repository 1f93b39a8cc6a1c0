#include "launcher/survey/hyperv.hpp"

#include <algorithm>

#include "launcher/config/config.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

/// As arch/x86/kvm/hyperv.c of Linux 6.1 has them.
std::vector<CpuidLeaf> leaves() {
  return {{0x40000000, 0x40000082, 0},
          {0x40000003, 0x2eff, 0x80d33},
          {0x40000004, 0xe2c, 0},
          {0x40000005, 0xffffffff, 0}};
}

TEST_CASE("hyperv: what KVM offers is told by its leaves", "[survey]") {
  std::set<std::string> all = {config::kEnlightenments.begin(), config::kEnlightenments.end()};
  all.erase("avic");  // the processor's, not KVM's
  CHECK(enlightenments_in(leaves()) == all);
  CHECK(enlightenments_in({}) == std::set<std::string>{"spinlocks"});
}

TEST_CASE("hyperv: a bit that is not there takes away what needs it", "[survey]") {
  struct Row {
    std::size_t leaf;
    std::uint32_t CpuidLeaf::*part;
    unsigned bit;
    const char* name;
  };
  for (const Row& row : {Row{2, &CpuidLeaf::eax, 5, "relaxed"},
                         Row{1, &CpuidLeaf::eax, 4, "vapic"},
                         Row{1, &CpuidLeaf::eax, 6, "vpindex"},
                         Row{1, &CpuidLeaf::eax, 0, "runtime"},
                         Row{1, &CpuidLeaf::eax, 2, "synic"},
                         Row{1, &CpuidLeaf::eax, 1, "time"},
                         Row{1, &CpuidLeaf::eax, 5, "time"},
                         Row{1, &CpuidLeaf::eax, 9, "time"},
                         Row{1, &CpuidLeaf::eax, 3, "stimer"},
                         Row{1, &CpuidLeaf::edx, 19, "stimer-direct"},
                         Row{1, &CpuidLeaf::eax, 11, "frequencies"},
                         Row{1, &CpuidLeaf::edx, 8, "frequencies"},
                         Row{2, &CpuidLeaf::eax, 2, "tlbflush"},
                         Row{2, &CpuidLeaf::eax, 10, "ipi"}}) {
    INFO(row.name << ", bit " << row.bit);
    std::set<std::string> expected = enlightenments_in(leaves());
    expected.erase(row.name);
    std::vector<CpuidLeaf> less = leaves();
    less[row.leaf].*row.part &= ~(1U << row.bit);
    CHECK(enlightenments_in(less) == expected);
  }
}

TEST_CASE("hyperv: without KVM nobody can be asked", "[survey]") {
  const tests::PciTree tree;
  CHECK(look_at_hyperv(tree.tree()) == std::nullopt);
  tree.folder("/sys/module/kvm");
  CHECK(look_at_hyperv(tree.tree()) == std::nullopt);
  tree.write("/dev/kvm", "no device");
  CHECK(look_at_hyperv(tree.tree()) == std::nullopt);
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
