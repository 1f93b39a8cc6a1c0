#include "launcher/survey/memory.hpp"

#include <algorithm>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// A line like "MemTotal:  16316412 kB".
std::optional<base::ByteSize> amount(Reader& reader,
                                     const std::string& path,
                                     const std::string& key) {
  const std::optional<std::string> text = reader.field(path, key);
  if (!text) {
    return std::nullopt;
  }
  const auto size = text->ends_with(" kB")
                        ? base::parse_byte_size(text->substr(0, text->size() - 3) + "K")
                        : std::nullopt;
  if (!size) {
    reader.doubt(path, key + ": " + *text);
  }
  return size;
}

std::vector<HugePages> look_at_pools(Reader& reader, const std::string& folder) {
  std::vector<HugePages> pools;
  for (const unsigned size : reader.numbered(folder, "hugepages-", "kB")) {
    const std::string pool = folder + "/hugepages-" + std::to_string(size) + "kB/";
    const auto count = [&](const char* name) { return reader.number(pool + name); };
    pools.push_back({base::ByteSize{size * base::kKiB},
                     count("nr_hugepages").value_or(0),
                     count("free_hugepages").value_or(0),
                     count("surplus_hugepages").value_or(0),
                     count("resv_hugepages")});
  }
  return pools;
}

std::optional<std::vector<unsigned>> parse_distances(const std::string& text) {
  std::vector<unsigned> distances;
  for (const std::string& word : base::split(text, ' ')) {
    const auto distance = base::parse_number<unsigned>(word);
    if (!distance) {
      return std::nullopt;
    }
    distances.push_back(*distance);
  }
  return distances;
}

/// What is free, and the files and inodes that the kernel would give up for somebody else.
base::ByteSize available(Reader& reader, const std::string& path, const std::string& node) {
  base::ByteSize sum;
  for (const char* kind : {"MemFree", "Active(file)", "Inactive(file)", "SReclaimable"}) {
    sum.bytes += amount(reader, path, node + " " + kind).value_or(base::ByteSize{}).bytes;
  }
  return sum;
}

Node look_at_node(Reader& reader, unsigned number) {
  const std::string name = std::to_string(number);
  const std::string folder = "/sys/devices/system/node/node" + name;
  Node node;
  node.number = number;
  node.cpus = reader.cpus(folder + "/cpulist").value_or(base::CpuSet());
  node.total = amount(reader, folder + "/meminfo", "Node " + name + " MemTotal");
  node.free = amount(reader, folder + "/meminfo", "Node " + name + " MemFree");
  node.available = available(reader, folder + "/meminfo", "Node " + name);
  node.distances =
      reader.parse(folder + "/distance", parse_distances).value_or(std::vector<unsigned>());
  node.pools = look_at_pools(reader, folder + "/hugepages");
  return node;
}

/// Of "always [madvise] never" the one that holds.
std::optional<std::string> parse_choice(const std::string& text) {
  const std::size_t open = text.find('[');
  const std::size_t close = text.find(']', open);
  if (open == std::string::npos || close == std::string::npos) {
    return std::nullopt;
  }
  return text.substr(open + 1, close - open - 1);
}

std::optional<unsigned> parse_policy(const std::string& text) {
  const auto policy = base::parse_number<unsigned>(text);
  return policy && *policy <= 2 ? policy : std::nullopt;
}

}  // namespace

const HugePages* Node::pool(base::ByteSize size) const {
  const auto found = std::find_if(
      pools.begin(), pools.end(), [&](const HugePages& pages) { return pages.size == size; });
  return found == pools.end() ? nullptr : &*found;
}

std::vector<Node> look_at_nodes(Reader& reader) {
  std::vector<Node> nodes;
  for (const unsigned number : reader.numbered("/sys/devices/system/node", "node")) {
    nodes.push_back(look_at_node(reader, number));
  }
  return nodes;
}

Memory look_at_memory(Reader& reader) {
  Memory memory;
  memory.total = amount(reader, "/proc/meminfo", "MemTotal");
  memory.available = amount(reader, "/proc/meminfo", "MemAvailable");
  memory.overcommit = reader.parse("/proc/sys/vm/overcommit_memory", parse_policy);
  memory.transparent =
      reader.parse("/sys/kernel/mm/transparent_hugepage/enabled", parse_choice).value_or("");
  memory.pools = look_at_pools(reader, "/sys/kernel/mm/hugepages");
  memory.nodes = look_at_nodes(reader);
  return memory;
}

}  // namespace vmlaunch::launcher::survey
