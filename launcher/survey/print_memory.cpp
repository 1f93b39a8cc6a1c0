#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "base/text.hpp"
#include "launcher/survey/print.hpp"
#include "launcher/survey/print_parts.hpp"

namespace vmlaunch::launcher::survey {

namespace {

std::string describe(const HugePages& pool) {
  std::string text = std::to_string(pool.total) + " of " + about(pool.size) + ", " +
                     std::to_string(pool.free) + " free";
  if (pool.reserved && *pool.reserved != 0) {
    text += ", " + std::to_string(*pool.reserved) + " reserved";
  }
  if (pool.surplus != 0) {
    text += ", " + std::to_string(pool.surplus) + " surplus";
  }
  return text;
}

void add_pools(std::string& text, const std::string& indent, const std::vector<HugePages>& pools) {
  for (const HugePages& pool : pools) {
    if (pool.total != 0) {
      text += indent + "huge pages: " + describe(pool) + "\n";
    }
  }
}

bool has_no_pages(const std::vector<HugePages>& pools) {
  return std::all_of(
      pools.begin(), pools.end(), [](const HugePages& pool) { return pool.total == 0; });
}

std::string sizes(const std::optional<base::ByteSize>& total,
                  const std::optional<base::ByteSize>& left,
                  const std::string& what) {
  return (total ? about(*total) : "not seen") + (left ? ", " + about(*left) + " " + what : "");
}

void add_node(std::string& text, const Node& node) {
  text += "  node " + std::to_string(node.number) + ": " + sizes(node.total, node.free, "free");
  text += node.cpus.empty() ? ", no CPUs" : ", CPUs " + base::to_string(node.cpus);
  text += node.distances.empty() ? "" : ", distances";
  for (const unsigned distance : node.distances) {
    text += " " + std::to_string(distance);
  }
  text += "\n";
  add_pools(text, "    ", node.pools);
}

}  // namespace

void add_memory(std::string& text, const Memory& memory) {
  static constexpr std::array kPolicies = {"heuristic", "always", "never"};
  text += "\nmemory: " + sizes(memory.total, memory.available, "available") + "\n";
  add_pools(text, "  ", memory.pools);
  if (!memory.pools.empty() && has_no_pages(memory.pools)) {
    text += "  huge pages: none\n";
  }
  add_named(text, "transparent huge pages", memory.transparent);
  add_named(text, "overcommit", memory.overcommit ? kPolicies[*memory.overcommit] : "");
  // Of a single node there is nothing to tell that was not said.
  if (memory.nodes.size() > 1) {
    for (const Node& node : memory.nodes) {
      add_node(text, node);
    }
  }
}

}  // namespace vmlaunch::launcher::survey
