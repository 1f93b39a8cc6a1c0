#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/types.h>

#include <array>
#include <cstdint>
#include <vector>

namespace vmlaunch::tests {

/// A system call filter as the kernel has it.
using LiveFilter = std::vector<sock_filter>;

/// All filters of a running process, the oldest first, read by ptrace(2). Needs root, and a process
/// that nobody else traces. Throws std::system_error.
[[nodiscard]] std::vector<LiveFilter> live_filters(pid_t pid);

/// What a filter answers to a call of this machine's numbering (SECCOMP_RET_…, with its data).
[[nodiscard]] std::uint32_t run_filter(const LiveFilter& filter, const seccomp_data& call);

/// What counts of several filters' answers: the strictest.
[[nodiscard]] std::uint32_t run_filters(const std::vector<LiveFilter>& filters,
                                        const seccomp_data& call);

/// A call with all six arguments the same.
[[nodiscard]] seccomp_data call_of(int number, std::uint64_t argument);

}  // namespace vmlaunch::tests
