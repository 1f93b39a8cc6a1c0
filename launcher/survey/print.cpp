#include "launcher/survey/print.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <set>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using base::hex;

std::uint16_t class_and_subclass(const PciFunction& function) {
  return static_cast<std::uint16_t>(function.class_code >> 8U);
}

void add_virtual(std::string& text, const PciFunction& function) {
  if (function.is_virtual) {
    text += ", virtual function";
    text += function.physical ? " of " + to_string(*function.physical) : "";
  }
  if (function.virtual_total != 0) {
    text += ", " + std::to_string(function.virtual_count) + " of " +
            std::to_string(function.virtual_total) + " virtual functions";
  }
}

void add_resizable(std::string& text, const PciFunction& function) {
  for (const Bar& bar : function.bars) {
    if (!bar.sizes.empty() && bar.sizes.back() > bar.size) {
      text += ", BAR " + std::to_string(bar.number) + " of " + about(bar.size) +
              " can have up to " + about(bar.sizes.back());
    }
  }
}

/// In the words of lspci -nn.
std::string describe(const PciFunction& function, const PciNames& names, bool has_nodes) {
  std::vector<std::string> words = {to_string(function.address)};
  const auto add_name = [&](const std::optional<std::string>& name) {
    if (name) {
      words.push_back(*name);
    }
  };
  const std::uint16_t number = class_and_subclass(function);
  add_name(names.device_class(number));
  words.push_back("[" + hex(number, 4) + "]:");
  add_name(names.vendor(function.vendor));
  add_name(names.device(function.vendor, function.device));
  words.push_back("[" + hex(function.vendor, 4) + ":" + hex(function.device, 4) + "]");
  words.push_back("(rev " + hex(function.revision, 2) + ")");
  std::string text = base::join(words, " ");
  text += function.driver ? ", driver " + *function.driver : ", no driver";
  if (!function.reset_methods.empty()) {
    text += ", reset " + base::join(function.reset_methods, " ");
  }
  if (function.boot_vga) {
    text += ", the firmware's screen";
  }
  if (has_nodes && function.numa_node) {
    text += ", node " + std::to_string(*function.numa_node);
  }
  add_virtual(text, function);
  add_resizable(text, function);
  return text;
}

void add_members(std::string& text,
                 const std::vector<const PciFunction*>& members,
                 const PciNames& names,
                 bool has_nodes) {
  for (const PciFunction* member : members) {
    text += member->reset_methods.empty() ? "          " : "  [RESET] ";
    text += base::printable(describe(*member, names, has_nodes)) + "\n";
  }
}

void add_devices(std::string& text, const Host& host, const PciNames& names) {
  const bool has_nodes = host.memory.nodes.size() > 1;
  std::set<unsigned> groups;
  std::vector<const PciFunction*> alone;
  for (const PciFunction& function : host.pci.functions) {
    if (function.iommu_group) {
      groups.insert(*function.iommu_group);
    } else {
      alone.push_back(&function);
    }
  }
  for (const unsigned number : groups) {
    text += "\ngroup " + std::to_string(number) + "\n";
    add_members(text, host.pci.group(number), names, has_nodes);
  }
  if (!alone.empty()) {
    text += "\noutside of any group\n";
    add_members(text, alone, names, has_nodes);
  }
  if (host.pci.functions.empty()) {
    text += "\nno PCI devices\n";
  }
}

/// CPUs that a guest's are best taken from together: of one socket, node, last-level cache and
/// kind.
struct Cluster {
  std::string place;
  std::string kind;
  std::set<base::CpuSet> cores;  ///< in the order of their first threads
  std::uint64_t max_khz = 0;
};

std::string place_of(const Cpu& cpu) {
  std::vector<std::string> words;
  if (cpu.socket) {
    words.push_back("socket " + std::to_string(*cpu.socket));
  }
  if (cpu.node) {
    words.push_back("node " + std::to_string(*cpu.node));
  }
  if (cpu.cache) {
    words.push_back("L" + std::to_string(cpu.cache->level) + " cache of " + about(cpu.cache->size) +
                    " for CPUs " + base::to_string(cpu.cache->cpus));
  }
  return words.empty() ? "anywhere" : base::join(words, ", ");
}

std::vector<Cluster> clusters_of(const Cpus& cpus) {
  std::vector<Cluster> clusters;
  for (const Cpu& cpu : cpus.list) {
    if (!cpu.online) {
      continue;
    }
    const std::string place = place_of(cpu);
    const std::string kind = cpu.kind ? std::string(to_string(*cpu.kind)) + " " : "";
    auto found = std::find_if(clusters.begin(), clusters.end(), [&](const Cluster& one) {
      return one.place == place && one.kind == kind;
    });
    if (found == clusters.end()) {
      found = clusters.insert(clusters.end(), {place, kind, {}, 0});
    }
    found->cores.insert(cpu.siblings);
    found->max_khz = std::max(found->max_khz, cpu.max_khz.value_or(0));
  }
  return clusters;
}

std::string gigahertz(std::uint64_t khz) {
  const std::uint64_t tenths = (khz + 50'000) / 100'000;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GHz";
}

void add_cluster(std::string& text, const Cluster& cluster) {
  constexpr std::size_t kCoresInLine = 12;
  text += "    " + std::to_string(cluster.cores.size()) + " " + cluster.kind +
          (cluster.cores.size() == 1 ? "core" : "cores");
  if (cluster.max_khz != 0) {
    text += " up to " + gigahertz(cluster.max_khz);
  }
  text += ", by threads:";
  std::size_t shown = 0;
  for (const base::CpuSet& core : cluster.cores) {
    text += shown++ % kCoresInLine == 0 ? "\n      " : "  ";
    text += base::to_string(core);
  }
  text += "\n";
}

void add_named(std::string& text, const std::string& name, const std::string& value) {
  if (!value.empty()) {
    text += "  " + name + ": " + base::printable(value) + "\n";
  }
}

void add_cpus(std::string& text, const Cpus& cpus) {
  base::CpuSet offline;
  std::set<std::string> governors;
  std::set<base::CpuSet> cores;
  for (const Cpu& cpu : cpus.list) {
    if (cpu.online) {
      governors.insert(cpu.governor);
      cores.insert(cpu.siblings);
    } else {
      offline.insert(cpu.number);
    }
  }
  text += "\nCPUs: ";
  if (cpus.list.empty()) {
    text += "not seen\n";
    return;
  }
  text += std::to_string(cpus.list.size() - offline.size()) + " in " +
          std::to_string(cores.size()) + (cores.size() == 1 ? " core" : " cores") +
          (cpus.model.empty() ? "" : " of " + base::printable(cpus.model)) + "\n";
  std::string place;
  for (const Cluster& cluster : clusters_of(cpus)) {
    if (cluster.place != place) {
      place = cluster.place;
      text += "  " + place + "\n";
    }
    add_cluster(text, cluster);
  }
  add_named(text, "offline", base::to_string(offline));
  add_named(text, "isolated", base::to_string(cpus.isolated));
  add_named(text, "without a tick (nohz_full)", base::to_string(cpus.nohz_full));
  add_named(text, "without RCU callbacks (rcu_nocbs)", base::to_string(cpus.rcu_nocbs));
  add_named(text, "governor", base::join({governors.begin(), governors.end()}, ", "));
}

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

std::string describe(const std::map<std::string, std::string>& parameters) {
  std::vector<std::string> words;
  words.reserve(parameters.size());
  for (const auto& [name, value] : parameters) {
    words.push_back(name + "=" + value);
  }
  return words.empty() ? "there" : base::join(words, " ");
}

std::string describe(const Cgroup& cgroup) {
  if (!cgroup.usable) {
    return base::join(cgroup.controllers, " ") + "; the caller can make no cgroup";
  }
  return cgroup.usable == cgroup.controllers
             ? base::join(cgroup.controllers, " ")
             : base::join(cgroup.controllers, " ") +
                   "; of these for the caller: " + base::join(*cgroup.usable, " ");
}

void add_kernel(std::string& text, const Host& host) {
  text += "\nkernel: " +
          (host.kernel.release.empty() ? "not seen" : base::printable(host.kernel.release)) + "\n";
  if (host.kernel.command_line) {
    add_named(
        text, "command line, as far as it matters", base::join(*host.kernel.command_line, " "));
  }
  add_named(text, "lockdown", host.kernel.lockdown);
  add_named(text, "/dev/kvm", host.kvm.node ? "there" : "not there");
  for (const Module& module : host.kernel.modules) {
    add_named(text, module.name, describe(module.parameters));
  }
  add_named(text, "cgroup2", host.cgroup ? describe(*host.cgroup) : "not there");
}

void add_unseen(std::string& text, const std::vector<std::string>& unseen) {
  if (unseen.empty()) {
    return;
  }
  const bool is_hidden = std::any_of(unseen.begin(), unseen.end(), [](const std::string& line) {
    return line.ends_with(": Permission denied");
  });
  text += is_hidden ? "\nnot seen; root sees more\n" : "\nnot seen\n";
  for (const std::string& line : unseen) {
    text += "  " + base::printable(line) + "\n";
  }
}

}  // namespace

std::string about(base::ByteSize size) {
  static constexpr std::string_view kUnits = "KMGTPE";
  std::uint64_t unit = base::kKiB;
  std::size_t letter = 0;
  while (size.bytes / unit >= 1024 && letter + 1 < kUnits.size()) {
    unit *= 1024;
    ++letter;
  }
  const std::uint64_t whole = size.bytes / unit;
  const std::uint64_t tenths = size.bytes % unit * 10 / unit;
  return std::to_string(whole) + (tenths == 0 ? "" : "." + std::to_string(tenths)) +
         std::string(1, kUnits[letter]);
}

std::string to_text(const Host& host, const PciNames& names) {
  const std::optional<bool> iommu = host.pci.has_iommu();
  std::string text = !iommu   ? "IOMMU: not seen\n"
                     : *iommu ? "IOMMU: on\n"
                              : "IOMMU: off; no device can be given to a guest\n";
  for (const std::string& line : host.pci.iommu_advice()) {
    text += "  " + base::printable(line) + "\n";
  }
  add_devices(text, host, names);
  text += to_text(host.usb);
  add_cpus(text, host.cpus);
  add_memory(text, host.memory);
  add_kernel(text, host);
  add_unseen(text, host.unseen);
  return text;
}

}  // namespace vmlaunch::launcher::survey
