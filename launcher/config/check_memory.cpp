#include <bit>
#include <cstdint>
#include <set>
#include <utility>

#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

void nodes(const Config::Memory& given, VmSpec::Memory& memory, Review& review) {
  if (given.node) {
    memory.nodes.push_back(*given.node);
  }
  std::set<unsigned> seen;
  for (std::size_t i = 0; i < given.nodes.size(); ++i) {
    const std::optional<unsigned>& node = given.nodes[i];
    if (node && !seen.insert(*node).second) {
      review.report(child("/memory/node", i), "this node is listed twice");
    }
    memory.nodes.push_back(node.value_or(0));
  }
}

void hugepages(const Config::Memory& given, VmSpec::Memory& memory, Review& review) {
  if (!given.hugepages) {
    for (const auto& [key, is_given] :
         {std::pair("/memory/fallback", given.fallback.has_value()),
          std::pair("/memory/compact", given.compact.has_value()),
          std::pair("/memory/drop_caches", given.drop_caches.has_value())}) {
      if (is_given) {
        review.report_without("/memory/hugepages", key, "given without \"hugepages\"");
      }
    }
    return;
  }
  const std::uint64_t page = given.hugepages->bytes;
  if (page < base::kMiB || !std::has_single_bit(page)) {
    review.report("/memory/hugepages",
                  "expected a size of huge pages such as \"2M\" or \"1G\", found \"" +
                      base::to_string(*given.hugepages) + "\"");
  } else if (memory.size.bytes % page != 0) {
    review.report("/memory/size",
                  "expected a multiple of the huge pages' " + base::to_string(*given.hugepages) +
                      ", found \"" + base::to_string(memory.size) + "\"");
  } else if (memory.size.bytes / page < memory.nodes.size()) {
    review.report("/memory/node", "there are more nodes than huge pages");
  }
  memory.hugepages = VmSpec::HugePages{*given.hugepages,
                                       given.fallback.value_or(MemoryFallback::none),
                                       given.compact.value_or(true),
                                       given.drop_caches.value_or(false)};
}

}  // namespace

void check_memory(const Config::Memory& given, VmSpec::Memory& memory, Review& review) {
  memory.size = given.size.value_or(memory.size);
  if (memory.size.bytes < 16 * base::kMiB || memory.size.bytes % base::kMiB != 0) {
    review.report(
        "/memory/size",
        "expected a multiple of 1M, at least 16M, found \"" + base::to_string(memory.size) + "\"");
  }
  memory.locked = given.locked.value_or(false);
  nodes(given, memory, review);
  hugepages(given, memory, review);
}

}  // namespace vmlaunch::launcher::config
