#include "launcher/survey/cpus.hpp"

#include <algorithm>

#include "base/text.hpp"
#include "launcher/survey/kernel.hpp"

namespace vmlaunch::launcher::survey {

namespace {

constexpr const char* kCpus = "/sys/devices/system/cpu";

std::optional<unsigned> small_number(Reader& reader, const std::string& path) {
  const std::optional<std::uint64_t> number = reader.number(path);
  return number ? std::optional(static_cast<unsigned>(*number)) : std::nullopt;
}

std::optional<Cache> last_level_cache(Reader& reader, const std::string& cpu) {
  std::optional<Cache> last;
  for (const unsigned index : reader.numbered(cpu + "/cache", "index")) {
    const std::string folder = cpu + "/cache/index" + std::to_string(index);
    const std::optional<unsigned> level = small_number(reader, folder + "/level");
    if (!level || reader.text(folder + "/type") != "Unified" || (last && last->level >= *level)) {
      continue;
    }
    const auto size = reader.parse(
        folder + "/size", [](const std::string& text) { return base::parse_byte_size(text); });
    const auto cpus = reader.cpus(folder + "/shared_cpu_list");
    if (size && cpus) {
      last = Cache{*level, *size, *cpus};
    }
  }
  return last;
}

Cpu look_at_cpu(Reader& reader, unsigned number) {
  const std::string folder = std::string(kCpus) + "/cpu" + std::to_string(number);
  Cpu cpu;
  cpu.number = number;
  // One that cannot be taken offline has no such file.
  cpu.online = reader.number(folder + "/online") != std::uint64_t{0};
  if (!cpu.online) {
    return cpu;
  }
  cpu.socket = small_number(reader, folder + "/topology/physical_package_id");
  cpu.die = small_number(reader, folder + "/topology/die_id");
  cpu.core = small_number(reader, folder + "/topology/core_id");
  cpu.siblings = reader.cpus(folder + "/topology/thread_siblings_list").value_or(base::CpuSet());
  cpu.siblings.insert(number);
  cpu.cache = last_level_cache(reader, folder);
  cpu.max_khz = reader.number(folder + "/cpufreq/cpuinfo_max_freq");
  cpu.governor = reader.text(folder + "/cpufreq/scaling_governor").value_or("");
  return cpu;
}

void place_on_nodes(Reader& reader, std::vector<Cpu>& list) {
  constexpr const char* kNodes = "/sys/devices/system/node";
  for (const unsigned node : reader.numbered(kNodes, "node")) {
    const auto members =
        reader.cpus(std::string(kNodes) + "/node" + std::to_string(node) + "/cpulist");
    for (Cpu& cpu : list) {
      if (members && members->contains(cpu.number)) {
        cpu.node = node;
      }
    }
  }
}

/// What tells two kinds of cores apart where the kernel does not name them.
std::optional<std::uint64_t> strength(Reader& reader, const Cpu& cpu) {
  const auto capacity =
      reader.number(std::string(kCpus) + "/cpu" + std::to_string(cpu.number) + "/cpu_capacity");
  return capacity ? capacity : cpu.max_khz;
}

/// The best cores of one kind may be a tenth faster than the others (their turbo, or a cache on top
/// of some), efficient ones are slower by a fifth and more.
bool is_weak(std::uint64_t strength, std::uint64_t strongest) {
  return strength < strongest - strongest / 6;
}

void tell_kinds_by_strength(Reader& reader, std::vector<Cpu>& list) {
  std::vector<std::uint64_t> strengths;
  strengths.reserve(list.size());
  for (const Cpu& cpu : list) {
    strengths.push_back(cpu.online ? strength(reader, cpu).value_or(0) : 0);
  }
  const std::uint64_t strongest =
      strengths.empty() ? 0 : *std::max_element(strengths.begin(), strengths.end());
  const auto weak = [&](std::uint64_t one) { return one != 0 && is_weak(one, strongest); };
  if (std::none_of(strengths.begin(), strengths.end(), weak)) {
    return;
  }
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (strengths[i] != 0) {
      list[i].kind = weak(strengths[i]) ? CoreKind::efficient : CoreKind::performance;
    }
  }
}

/// A hybrid processor has an event source for each kind of its cores.
void tell_kinds(Reader& reader, std::vector<Cpu>& list) {
  const auto performance = reader.cpus("/sys/devices/cpu_core/cpus");
  const auto efficient = reader.cpus("/sys/devices/cpu_atom/cpus");
  if (!performance || !efficient) {
    tell_kinds_by_strength(reader, list);
    return;
  }
  for (Cpu& cpu : list) {
    if (performance->contains(cpu.number)) {
      cpu.kind = CoreKind::performance;
    } else if (efficient->contains(cpu.number)) {
      cpu.kind = CoreKind::efficient;
    }
  }
}

base::CpuSet all_of(const std::vector<Cpu>& list) {
  base::CpuSet numbers;
  for (const Cpu& cpu : list) {
    numbers.insert(cpu.number);
  }
  return numbers;
}

base::CpuSet find_rcu_nocbs(Reader& reader, const std::vector<Cpu>& list) {
  base::CpuSet found;
  for (const std::string& word : look_at_command_line(reader).value_or(CommandLine())) {
    constexpr std::string_view kName = "rcu_nocbs=";
    if (!word.starts_with(kName)) {
      continue;
    }
    const std::string value = word.substr(kName.size());
    const auto cpus = value == "all" ? std::optional(all_of(list)) : base::parse_cpu_set(value);
    if (cpus) {
      found = *cpus;
    } else {
      reader.doubt("/proc/cmdline", word);
    }
  }
  return found;
}

}  // namespace

std::vector<Cluster> clusters_of(const Cpus& cpus) {
  std::vector<Cluster> clusters;
  for (const Cpu& cpu : cpus.list) {
    if (!cpu.online) {
      continue;
    }
    auto found = std::find_if(clusters.begin(), clusters.end(), [&](const Cluster& one) {
      return one.socket == cpu.socket && one.node == cpu.node && one.cache == cpu.cache &&
             one.kind == cpu.kind;
    });
    if (found == clusters.end()) {
      found = clusters.insert(clusters.end(), {cpu.socket, cpu.node, cpu.cache, cpu.kind, {}, 0});
    }
    found->cores.insert(cpu.siblings);
    found->max_khz = std::max(found->max_khz, cpu.max_khz.value_or(0));
  }
  return clusters;
}

base::CpuSet online_cpus(const Cpus& cpus) {
  base::CpuSet online;
  for (const Cpu& cpu : cpus.list) {
    if (cpu.online) {
      online.insert(cpu.number);
    }
  }
  return online;
}

bool is_amd(const std::string& vendor) {
  return vendor == "AuthenticAMD" || vendor == "HygonGenuine";
}

const char* to_string(CoreKind kind) {
  return kind == CoreKind::performance ? "performance" : "efficient";
}

Cpus look_at_cpus(Reader& reader) {
  Cpus cpus;
  cpus.model = reader.field("/proc/cpuinfo", "model name").value_or("");
  for (const unsigned number : reader.numbered(kCpus, "cpu")) {
    cpus.list.push_back(look_at_cpu(reader, number));
  }
  place_on_nodes(reader, cpus.list);
  tell_kinds(reader, cpus.list);
  cpus.isolated = reader.cpus(std::string(kCpus) + "/isolated").value_or(base::CpuSet());
  // The kernel prints a set that it has not made as "(null)".
  const auto nohz_full = [](const std::string& text) {
    return text.ends_with("(null)") ? base::CpuSet() : base::parse_cpu_set(text);
  };
  cpus.nohz_full =
      reader.parse(std::string(kCpus) + "/nohz_full", nohz_full).value_or(base::CpuSet());
  cpus.rcu_nocbs = find_rcu_nocbs(reader, cpus.list);
  return cpus;
}

}  // namespace vmlaunch::launcher::survey
