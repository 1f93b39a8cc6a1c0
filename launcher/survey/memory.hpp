#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/byte_size.hpp"
#include "base/cpu_set.hpp"
#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

/// Huge pages of one size, of a node or of the host (Documentation/admin-guide/mm/hugetlbpage.rst).
struct HugePages {
  base::ByteSize size;                    ///< of one
  std::uint64_t total = 0;                ///< pages, surplus ones too
  std::uint64_t free = 0;                 ///< of these, not in use; what is reserved is still free
  std::uint64_t surplus = 0;              ///< of these, go when they are free again
  std::optional<std::uint64_t> reserved;  ///< promised, not yet used; counted for the host only

  bool operator==(const HugePages&) const = default;
};

/// A NUMA node.
struct Node {
  unsigned number = 0;
  base::CpuSet cpus;
  std::optional<base::ByteSize> total;
  std::optional<base::ByteSize> free;
  base::ByteSize available;         ///< free, or holds what can be read again
  std::vector<unsigned> distances;  ///< to each node, in the order of their numbers; 10: itself
  std::vector<HugePages> pools;

  /// Its huge pages of that size; nullptr for a size that the host has not.
  [[nodiscard]] const HugePages* pool(base::ByteSize size) const;

  bool operator==(const Node&) const = default;
};

/// By number; none where the kernel knows no NUMA.
[[nodiscard]] std::vector<Node> look_at_nodes(Reader& reader);

/// The host's memory.
struct Memory {
  std::optional<base::ByteSize> total;
  std::optional<base::ByteSize> available;  ///< can be had without swapping
  std::optional<unsigned> overcommit;  ///< vm.overcommit_memory: 0 heuristic, 1 always, 2 never
  std::string transparent;             ///< huge pages: "always", "madvise", "never"; "": none
  std::vector<HugePages> pools;
  std::vector<Node> nodes;  ///< none where the kernel knows no NUMA

  bool operator==(const Memory&) const = default;
};

[[nodiscard]] Memory look_at_memory(Reader& reader);

}  // namespace vmlaunch::launcher::survey
