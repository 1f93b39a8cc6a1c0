#include "base/cpu_set.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "base/text.hpp"

namespace vmlaunch::base {

namespace {

constexpr unsigned kCpuLimit = 8192;
constexpr unsigned kGroup = 32;  // CPUs in a group of a mask

}  // namespace

std::optional<CpuSet> parse_cpu_set(std::string_view text) {
  CpuSet cpus;
  if (text.empty()) {
    return cpus;
  }
  for (const std::string& range : split(text, ',')) {
    const std::string_view view = range;
    const std::size_t dash = view.find('-');
    const auto first = parse_number<unsigned>(view.substr(0, dash));
    const auto last =
        dash == std::string_view::npos ? first : parse_number<unsigned>(view.substr(dash + 1));
    if (!first || !last || *first > *last || *last >= kCpuLimit) {
      return std::nullopt;
    }
    for (unsigned cpu = *first; cpu <= *last; ++cpu) {
      cpus.insert(cpu);
    }
  }
  return cpus;
}

std::string to_string(const CpuSet& cpus) {
  std::string text;
  for (auto first = cpus.begin(); first != cpus.end();) {
    auto last = first;
    while (std::next(last) != cpus.end() && *std::next(last) == *last + 1) {
      ++last;
    }
    text += text.empty() ? "" : ",";
    text += std::to_string(*first);
    if (last != first) {
      text += "-" + std::to_string(*last);
    }
    first = std::next(last);
  }
  return text;
}

std::optional<CpuSet> parse_cpu_mask(std::string_view text) {
  CpuSet cpus;
  const std::vector<std::string> groups = split(text, ',');
  unsigned first = 0;
  for (auto group = groups.rbegin(); group != groups.rend(); ++group, first += kGroup) {
    const auto bits = parse_number<std::uint32_t>(*group, 16);
    if (!bits || group->size() > 8 || first >= kCpuLimit) {
      return std::nullopt;
    }
    for (unsigned bit = 0; bit < kGroup; ++bit) {
      if ((*bits >> bit & 1U) != 0) {
        cpus.insert(first + bit);
      }
    }
  }
  return cpus;
}

std::string to_mask(const CpuSet& cpus) {
  std::vector<std::string> groups;
  const unsigned count = cpus.empty() ? 1 : *cpus.rbegin() / kGroup + 1;
  for (unsigned group = count; group-- > 0;) {
    std::uint32_t bits = 0;
    for (unsigned bit = 0; bit < kGroup; ++bit) {
      bits |= cpus.contains(group * kGroup + bit) ? 1U << bit : 0;
    }
    groups.push_back(hex(bits, 8));
  }
  std::string mask = join(groups, ",");
  mask.erase(0, std::min(mask.find_first_not_of('0'), mask.size() - 1));
  return mask;
}

CpuSet common(const CpuSet& a, const CpuSet& b) {
  CpuSet both;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::inserter(both, both.end()));
  return both;
}

CpuSet without(const CpuSet& a, const CpuSet& b) {
  CpuSet left;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::inserter(left, left.end()));
  return left;
}

}  // namespace vmlaunch::base
