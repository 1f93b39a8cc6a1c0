#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace vmlaunch::base {

/// Logical CPUs of the host by the kernel's numbers.
using CpuSet = std::set<unsigned>;

/// The kernel's list format: "2-5,8-11"; "" is the empty set. CPU numbers are below 8192, the
/// largest NR_CPUS of any architecture.
[[nodiscard]] std::optional<CpuSet> parse_cpu_set(std::string_view text);

/// The list in its shortest form.
[[nodiscard]] std::string to_string(const CpuSet& cpus);

/// The kernel's mask format: hexadecimal digits in groups of eight, "ff,00000001". At least one
/// digit.
[[nodiscard]] std::optional<CpuSet> parse_cpu_mask(std::string_view text);

/// The mask in its shortest form; "0" for no CPU.
[[nodiscard]] std::string to_mask(const CpuSet& cpus);

/// Those of `a` that are in `b` too, and those that are not.
[[nodiscard]] CpuSet common(const CpuSet& a, const CpuSet& b);
[[nodiscard]] CpuSet without(const CpuSet& a, const CpuSet& b);

}  // namespace vmlaunch::base
