#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// A part of the host's memory, near to some of its processors.
struct MemoryNode {
  unsigned number = 0;
  /// In bytes: what nobody has, and what holds files and can be read again.
  std::uint64_t available = 0;
  std::map<std::uint64_t, std::uint64_t> free_pages;  ///< huge pages, by their size in bytes

  bool operator==(const MemoryNode&) const = default;
};

/// Reads /sys/devices/system/node of the tree, by number; none where the kernel has no such folder.
[[nodiscard]] std::vector<MemoryNode> look_at_memory(const base::Tree& tree);

/// Where a kernel shows a module's parameter: "kvm.ignore_msrs".
[[nodiscard]] std::string parameter_file(const std::string& parameter);

}  // namespace vmlaunch::launcher::survey
