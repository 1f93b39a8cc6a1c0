#include "launcher/plan/memory.hpp"

#include <algorithm>
#include <set>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::VmSpec;

const survey::Node* find(const survey::Survey& survey, unsigned number) {
  const auto found = std::find_if(survey.nodes.begin(),
                                  survey.nodes.end(),
                                  [&](const survey::Node& node) { return node.number == number; });
  return found == survey.nodes.end() ? nullptr : &*found;
}

void require_nodes(const VmSpec::Memory& spec, const survey::Survey& survey) {
  for (const unsigned node : spec.nodes) {
    if (find(survey, node) == nullptr) {
      throw Failure(ExitCode::preflight,
                    "Cannot use the memory node " + std::to_string(node) +
                        ": this host has none of that number; type: ls /sys/devices/system/node");
    }
  }
}

/// The one that all devices of the guest are near to.
std::optional<unsigned> node_of_devices(const Passthrough& passthrough,
                                        const survey::Survey& survey) {
  const std::set<unsigned> near = nodes_near(passthrough, survey.pci);
  return near.size() == 1 && find(survey, *near.begin()) != nullptr ? std::optional(*near.begin())
                                                                    : std::nullopt;
}

unsigned roomiest_node(const survey::Survey& survey, std::uint64_t page) {
  const auto room = [page](const survey::Node& node) {
    const survey::HugePages* pool = node.pool({page});
    return node.available.bytes + (pool == nullptr ? 0 : pool->free * page);
  };
  return std::max_element(survey.nodes.begin(),
                          survey.nodes.end(),
                          [&](const auto& a, const auto& b) { return room(a) < room(b); })
      ->number;
}

std::string sizes_of(const survey::Survey& survey) {
  std::vector<std::string> sizes;
  for (const survey::HugePages& pool : survey.nodes.front().pools) {
    sizes.push_back(base::to_string(pool.size));
  }
  return sizes.empty() ? "none" : base::join(sizes, ", ");
}

/// Why `pages` huge pages cannot be had on a node; "" for nothing that can be seen from here.
std::string obstacle(const survey::Node& node,
                     std::uint64_t page,
                     std::uint64_t pages,
                     bool grows) {
  const std::uint64_t free = node.pool({page})->free;
  const std::uint64_t could = grows ? node.available.bytes / page : 0;
  if (free + could >= pages) {
    return "";
  }
  return "of " + std::to_string(pages) + " huge pages of " + base::to_string(base::ByteSize{page}) +
         " on node " + std::to_string(node.number) + " " + std::to_string(free) + " are free" +
         (grows ? ", and there is memory for " + std::to_string(could) + " more" : "");
}

/// A line for each node that cannot give its part.
std::vector<std::string> obstacles(const VmSpec::Memory& spec,
                                   const Memory& memory,
                                   const survey::Survey& survey,
                                   bool grows) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < memory.nodes.size(); ++i) {
    const std::string line = obstacle(
        *find(survey, memory.nodes[i]), memory.page->bytes, memory.pages_of(i, spec.size), grows);
    if (!line.empty()) {
      lines.push_back(line);
    }
  }
  return lines;
}

/// What an administrator types for a run without root.
std::string way_to_prepare(const VmSpec::Memory& spec, const Memory& memory) {
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < memory.nodes.size(); ++i) {
    lines.push_back("echo " + std::to_string(memory.pages_of(i, spec.size)) +
                    " | sudo tee /sys/devices/system/node/node" + std::to_string(memory.nodes[i]) +
                    "/hugepages/hugepages-" + std::to_string(memory.page->bytes / base::kKiB) +
                    "kB/nr_hugepages");
  }
  return base::join(lines, " && ");
}

/// Why these pages cannot be had, for a message; "" for those that can be asked for.
std::string refusal(const VmSpec::Memory& spec,
                    const Memory& memory,
                    const survey::Survey& survey,
                    bool privileged,
                    bool grows) {
  const bool has_size =
      std::all_of(survey.nodes.begin(), survey.nodes.end(), [&](const survey::Node& node) {
        return node.pool(*memory.page) != nullptr;
      });
  if (survey.nodes.empty() || !has_size) {
    return survey.nodes.empty()
               ? "this kernel shows no memory nodes; type: ls /sys/devices/system/node"
               : "this host has none of that size, but " + sizes_of(survey) +
                     "; type: ls /sys/kernel/mm/hugepages";
  }
  const std::vector<std::string> lines = obstacles(spec, memory, survey, grows && privileged);
  if (lines.empty()) {
    return "";
  }
  return base::join(lines, ", ") +
         (privileged ? "; type: grep -e Free -e file /sys/devices/system/node/node*/meminfo"
                     : "; type: " + way_to_prepare(spec, memory) + ", or: sudo vmlaunch …");
}

}  // namespace

std::uint64_t Memory::pages_of(std::size_t index, base::ByteSize size) const {
  const std::uint64_t pages = size.bytes / page->bytes;
  return pages / nodes.size() + (index < pages % nodes.size() ? 1 : 0);
}

Memory choose_memory(const VmSpec::Memory& spec,
                     const survey::Survey& survey,
                     const Passthrough& passthrough,
                     bool privileged) {
  require_nodes(spec, survey);
  Memory memory;
  memory.nodes = spec.nodes;
  if (!spec.hugepages) {
    return memory;
  }
  const bool may_fall_back = spec.hugepages->fallback == config::MemoryFallback::smaller;
  for (const std::uint64_t page : {spec.hugepages->size.bytes, 2 * base::kMiB}) {
    memory.page = base::ByteSize{page};
    if (spec.nodes.empty() && !survey.nodes.empty()) {
      memory.nodes = {node_of_devices(passthrough, survey).value_or(roomiest_node(survey, page))};
    }
    // A kernel that has run for a while hardly finds a whole GiB: with something to fall back to,
    // only those count that are there.
    const bool grows = !may_fall_back || page < base::kGiB;
    const std::string cause = refusal(spec, memory, survey, privileged, grows);
    if (cause.empty()) {
      return memory;
    }
    if (!may_fall_back) {
      throw Failure(ExitCode::memory,
                    "Cannot have huge pages of " + base::to_string(*memory.page) + ": " + cause);
    }
    memory.warning = "huge pages of " + base::to_string(spec.hugepages->size) +
                     " cannot be had: smaller pages are used instead";
  }
  memory.page.reset();
  memory.nodes = spec.nodes;
  return memory;
}

}  // namespace vmlaunch::launcher::plan
