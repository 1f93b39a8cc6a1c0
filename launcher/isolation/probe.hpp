#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "base/cpu_set.hpp"

namespace vmlaunch::launcher::isolation {

/// How long something took, how often: the n-th counts what took less than 2^n µs, and no less than
/// 2^(n-1); the last also what took longer.
struct Histogram {
  std::array<std::uint64_t, 24> counts{};
  std::uint64_t longest_ns = 0;

  void add(std::uint64_t nanoseconds);

  bool operator==(const Histogram&) const = default;
};

/// What a thread met that had a CPU for itself, as far as the host let it.
struct Probe {
  Histogram gaps;     ///< while it did nothing but look at the clock: of 1 µs and more
  Histogram wakings;  ///< from when its timer ran out until it ran
};

/// Half of the time looks at the clock, half of it sleeps for a millisecond at a time, on each of
/// these CPUs at once, in a child each. One that cannot run there is left out. Throws
/// std::system_error.
[[nodiscard]] std::vector<std::pair<unsigned, Probe>> probe(const base::CpuSet& cpus,
                                                            std::chrono::milliseconds time);

}  // namespace vmlaunch::launcher::isolation
