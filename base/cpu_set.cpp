#include "base/cpu_set.hpp"

#include <iterator>

#include "base/text.hpp"

namespace vmlaunch::base {

namespace {

constexpr unsigned kCpuLimit = 8192;

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

}  // namespace vmlaunch::base
