#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// A leaf of CPUID as KVM offers it.
struct CpuidLeaf {
  std::uint32_t function = 0;
  std::uint32_t eax = 0;
  std::uint32_t edx = 0;
};

/// Of config::kEnlightenments those that KVM offers, going by its leaves of Hyper-V's interface.
[[nodiscard]] std::set<std::string> enlightenments_in(const std::vector<CpuidLeaf>& leaves);

/// Those of this host's KVM and processor; nothing where it cannot be asked: it is not loaded,
/// /dev/kvm is not ours to open, or the kernel is older than Linux 5.11.
[[nodiscard]] std::optional<std::set<std::string>> look_at_hyperv(const base::Tree& tree);

}  // namespace vmlaunch::launcher::survey
