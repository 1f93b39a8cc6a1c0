#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "base/text.hpp"
#include "launcher/survey/print.hpp"
#include "launcher/survey/print_parts.hpp"

namespace vmlaunch::launcher::survey {

namespace {

std::string gigahertz(std::uint64_t khz) {
  const std::uint64_t tenths = (khz + 50'000) / 100'000;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " GHz";
}

void add_cluster(std::string& text, const Cluster& cluster) {
  constexpr std::size_t kCoresInLine = 12;
  text += "    " + std::to_string(cluster.cores.size()) + " " +
          (cluster.kind ? std::string(to_string(*cluster.kind)) + " " : "") +
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

}  // namespace

std::string place_of(const Cluster& cluster) {
  std::vector<std::string> words;
  if (cluster.socket) {
    words.push_back("socket " + std::to_string(*cluster.socket));
  }
  if (cluster.node) {
    words.push_back("node " + std::to_string(*cluster.node));
  }
  if (cluster.cache) {
    words.push_back("L" + std::to_string(cluster.cache->level) + " cache of " +
                    about(cluster.cache->size) + " for CPUs " +
                    base::to_string(cluster.cache->cpus));
  }
  return words.empty() ? "anywhere" : base::join(words, ", ");
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
    if (place_of(cluster) != place) {
      place = place_of(cluster);
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

}  // namespace vmlaunch::launcher::survey
