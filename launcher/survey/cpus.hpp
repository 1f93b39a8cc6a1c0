#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/byte_size.hpp"
#include "base/cpu_set.hpp"
#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

/// A cache that several CPUs may share.
struct Cache {
  unsigned level = 0;
  base::ByteSize size;
  base::CpuSet cpus;

  bool operator==(const Cache&) const = default;
};

/// The two kinds of cores of a hybrid processor.
enum class CoreKind { performance, efficient };

/// A logical CPU: a thread of a core. Of one that is offline only the number is known.
struct Cpu {
  unsigned number = 0;
  bool online = true;
  std::optional<unsigned> socket;
  std::optional<unsigned> die;   ///< within the socket
  std::optional<unsigned> core;  ///< within the socket; numbers may be left out
  base::CpuSet siblings;         ///< the threads of its core, itself too
  std::optional<Cache> cache;    ///< its last-level cache: the highest that holds data and code
  std::optional<unsigned> node;
  std::optional<CoreKind> kind;          ///< nothing: all cores are of one kind
  std::optional<std::uint64_t> max_khz;  ///< cpufreq's; nothing without cpufreq
  std::string governor;                  ///< "" without cpufreq

  bool operator==(const Cpu&) const = default;
};

/// The host's CPUs, and what is kept off them. Sources: Documentation/ABI/testing/
/// sysfs-devices-system-cpu, and Documentation/admin-guide/kernel-parameters.txt.
struct Cpus {
  std::string model;       ///< "" if it is not said
  std::vector<Cpu> list;   ///< by number; those that are not there, though possible, are left out
  base::CpuSet isolated;   ///< from the scheduler's load balancing (isolcpus)
  base::CpuSet nohz_full;  ///< from the tick while one task runs
  base::CpuSet rcu_nocbs;  ///< from RCU's callbacks

  bool operator==(const Cpus&) const = default;
};

/// CPUs that a guest's are best taken from together: of one socket, node, last-level cache and
/// kind.
struct Cluster {
  std::optional<unsigned> socket;
  std::optional<unsigned> node;
  std::optional<Cache> cache;
  std::optional<CoreKind> kind;
  std::set<base::CpuSet> cores;  ///< in the order of their first threads
  std::uint64_t max_khz = 0;     ///< of the fastest; 0: not known
};

/// In the order of their first CPUs. Those that are offline are in none.
[[nodiscard]] std::vector<Cluster> clusters_of(const Cpus& cpus);

[[nodiscard]] base::CpuSet online_cpus(const Cpus& cpus);

/// Going by the vendor of /proc/cpuinfo; Hygon's are of AMD's make.
[[nodiscard]] bool is_amd(const std::string& vendor);

[[nodiscard]] const char* to_string(CoreKind kind);

[[nodiscard]] Cpus look_at_cpus(Reader& reader);

}  // namespace vmlaunch::launcher::survey
