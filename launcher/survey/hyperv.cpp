#include "launcher/survey/hyperv.hpp"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <array>
#include <cstddef>

#include "base/unique_fd.hpp"
#include "launcher/survey/kernel.hpp"

namespace vmlaunch::launcher::survey {

namespace {

constexpr std::uint32_t kFeatures = 0x40000003;
constexpr std::uint32_t kAdvice = 0x40000004;

constexpr std::uint32_t bit(unsigned number) {
  return 1U << number;
}

/// What of its leaves an enlightenment needs (QEMU's target/i386/kvm/kvm.c, kvm_hyperv_properties;
/// the bits are those of Microsoft's Hypervisor Top Level Functional Specification).
struct Need {
  const char* name;
  std::uint32_t features = 0;  ///< EAX
  std::uint32_t more = 0;      ///< EDX
  std::uint32_t advice = 0;    ///< EAX
};

constexpr std::array kNeeds = {
    Need{"relaxed", 0, 0, bit(5)},
    Need{"vapic", bit(4)},
    Need{"spinlocks"},
    Need{"vpindex", bit(6)},
    Need{"runtime", bit(0)},
    Need{"synic", bit(2)},
    Need{"time", bit(1) | bit(5) | bit(9)},
    Need{"stimer", bit(3)},
    Need{"stimer-direct", 0, bit(19)},
    Need{"frequencies", bit(11), bit(8)},
    Need{"tlbflush", 0, 0, bit(2) | bit(11)},
    Need{"ipi", 0, 0, bit(10) | bit(11)},
};

/// Interrupts reach a running guest without the host, if it does not use Hyper-V's own way to
/// acknowledge them.
bool delivers_interrupts(const base::Tree& tree) {
  for (const char* parameter : {"kvm_intel.enable_apicv", "kvm_amd.avic"}) {
    const std::string value = tree.read(parameter_file(parameter)).value_or("");
    if (value == "Y" || value == "1") {
      return true;
    }
  }
  return false;
}

/// As linux/kvm.h has kvm_cpuid2 for C; for C++ its array without a length makes it larger, and of
/// the call's number another one.
struct Head {
  std::uint32_t count;
  std::uint32_t padding;
};
constexpr std::size_t kMostLeaves = 32;  // it has about a dozen
struct Answer {
  Head head;
  std::array<kvm_cpuid_entry2, kMostLeaves> leaves;
};
constexpr unsigned long kGetLeaves = _IOWR(KVMIO, 0xc1, Head);  // KVM_GET_SUPPORTED_HV_CPUID

std::vector<CpuidLeaf> ask_kvm(int kvm) {
  Answer answer{{kMostLeaves, 0}, {}};
  if (::ioctl(kvm, kGetLeaves, &answer) != 0) {
    return {};
  }
  std::vector<CpuidLeaf> leaves;
  for (std::size_t i = 0; i < answer.head.count && i < kMostLeaves; ++i) {
    const kvm_cpuid_entry2& leaf = answer.leaves[i];
    leaves.push_back({leaf.function, leaf.eax, leaf.edx});
  }
  return leaves;
}

}  // namespace

std::set<std::string> enlightenments_in(const std::vector<CpuidLeaf>& leaves) {
  CpuidLeaf features;
  CpuidLeaf advice;
  for (const CpuidLeaf& leaf : leaves) {
    if (leaf.function == kFeatures) {
      features = leaf;
    } else if (leaf.function == kAdvice) {
      advice = leaf;
    }
  }
  std::set<std::string> offered;
  for (const Need& need : kNeeds) {
    if ((features.eax & need.features) == need.features &&
        (features.edx & need.more) == need.more && (advice.eax & need.advice) == need.advice) {
      offered.insert(need.name);
    }
  }
  return offered;
}

std::optional<std::set<std::string>> look_at_hyperv(const base::Tree& tree) {
  // To open its node would load it.
  const base::UniqueFd kvm =
      tree.exists("/sys/module/kvm") ? tree.open("/dev/kvm", O_RDWR) : base::UniqueFd();
  const std::vector<CpuidLeaf> leaves = kvm ? ask_kvm(kvm.get()) : std::vector<CpuidLeaf>();
  if (leaves.empty()) {
    return std::nullopt;
  }
  std::set<std::string> offered = enlightenments_in(leaves);
  if (delivers_interrupts(tree)) {
    offered.insert("avic");
  }
  return offered;
}

}  // namespace vmlaunch::launcher::survey
