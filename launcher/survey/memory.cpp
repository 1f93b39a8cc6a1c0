#include "launcher/survey/memory.hpp"

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/byte_size.hpp"
#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

constexpr const char* kNodes = "/sys/devices/system/node";

/// The number that a name has behind its prefix: 0 of "node0".
std::optional<std::uint64_t> number_of(std::string_view name,
                                       std::string_view prefix,
                                       std::string_view ending = "") {
  if (!name.starts_with(prefix) || !name.ends_with(ending) ||
      name.size() < prefix.size() + ending.size()) {
    return std::nullopt;
  }
  name.remove_prefix(prefix.size());
  name.remove_suffix(ending.size());
  return base::parse_number<std::uint64_t>(std::string(name));
}

/// Of "Node 0 MemFree:   123 kB" the number, in bytes.
std::uint64_t available_of(const std::string& meminfo) {
  std::uint64_t sum = 0;
  for (const std::string& line : base::split(meminfo, '\n')) {
    for (const char* key : {" MemFree:", " Active(file):", " Inactive(file):", " SReclaimable:"}) {
      const std::size_t at = line.find(key);
      if (at != std::string::npos) {
        std::string rest = line.substr(at + std::string_view(key).size());
        rest.erase(0, std::min(rest.size(), rest.find_first_not_of(' ')));
        sum += number_of(rest, "", " kB").value_or(0) * base::kKiB;
      }
    }
  }
  return sum;
}

}  // namespace

std::vector<MemoryNode> look_at_memory(const base::Tree& tree) {
  std::vector<MemoryNode> nodes;
  for (const std::string& name : tree.list(kNodes)) {
    const auto number = number_of(name, "node");
    if (!number) {
      continue;
    }
    const std::string folder = std::string(kNodes) + "/" + name;
    MemoryNode node{static_cast<unsigned>(*number),
                    available_of(tree.read(folder + "/meminfo").value_or("")),
                    {}};
    for (const std::string& pool : tree.list(folder + "/hugepages")) {
      if (const auto size = number_of(pool, "hugepages-", "kB")) {
        const std::string path = base::join({folder, "hugepages", pool, "free_hugepages"}, "/");
        node.free_pages[*size * base::kKiB] =
            base::parse_number<std::uint64_t>(tree.read(path).value_or("")).value_or(0);
      }
    }
    nodes.push_back(node);
  }
  std::sort(nodes.begin(), nodes.end(), [](const MemoryNode& a, const MemoryNode& b) {
    return a.number < b.number;
  });
  return nodes;
}

std::string parameter_file(const std::string& parameter) {
  const std::size_t dot = parameter.find('.');
  return "/sys/module/" + parameter.substr(0, dot) + "/parameters/" +
         (dot == std::string::npos ? "" : parameter.substr(dot + 1));
}

}  // namespace vmlaunch::launcher::survey
