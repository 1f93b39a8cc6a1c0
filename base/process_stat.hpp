#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/tree.hpp"

namespace vmlaunch::base {

/// What /proc/PID/stat says of a process or thread (proc(5)).
struct ProcessStat {
  std::string name;
  char state = '?';  ///< 'R', 'S', 'Z', …
  pid_t parent = 0;
  std::uint64_t flags = 0;    ///< the kernel's PF_ flags
  std::uint64_t user = 0;     ///< processor time, in clock ticks
  std::uint64_t system = 0;   ///< the same in the kernel
  std::uint64_t started = 0;  ///< clock ticks since boot: with its number, a name for ever
  unsigned cpu = 0;           ///< that it was on last

  [[nodiscard]] bool is_kernel_thread() const { return (flags & 0x00200000U) != 0; }
  /// Nobody can change where it runs (PF_NO_SETAFFINITY).
  [[nodiscard]] bool is_bound() const { return (flags & 0x04000000U) != 0; }
};

/// Nothing for a text of another form.
[[nodiscard]] std::optional<ProcessStat> parse_process_stat(const std::string& text);

/// Of a process, or of a thread as "PID/task/TID"; nothing when it is gone.
[[nodiscard]] std::optional<ProcessStat> stat_of(const Tree& tree, const std::string& process);

}  // namespace vmlaunch::base
