#include "base/process_stat.hpp"

#include <vector>

#include "base/text.hpp"

namespace vmlaunch::base {

std::optional<ProcessStat> parse_process_stat(const std::string& text) {
  // A name may have spaces and brackets.
  const std::size_t open = text.find('(');
  const std::size_t close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close < open ||
      close + 2 > text.size()) {
    return std::nullopt;
  }
  // Counted from the third field of proc(5), the state.
  constexpr std::size_t kParent = 1;
  constexpr std::size_t kFlags = 6;
  constexpr std::size_t kUser = 11;
  constexpr std::size_t kSystem = 12;
  constexpr std::size_t kStarted = 19;
  constexpr std::size_t kCpu = 36;
  const std::vector<std::string> fields = split(text.substr(close + 2), ' ');
  if (fields.size() <= kCpu || fields[0].size() != 1) {
    return std::nullopt;
  }
  const auto number = [&](std::size_t index) {
    return parse_number<std::uint64_t>(fields[index]).value_or(0);
  };
  ProcessStat stat;
  stat.name = text.substr(open + 1, close - open - 1);
  stat.state = fields[0][0];
  stat.parent = static_cast<pid_t>(number(kParent));
  stat.flags = number(kFlags);
  stat.user = number(kUser);
  stat.system = number(kSystem);
  stat.started = number(kStarted);
  stat.cpu = static_cast<unsigned>(number(kCpu));
  return stat;
}

std::optional<ProcessStat> stat_of(const Tree& tree, const std::string& process) {
  const auto text = tree.read("/proc/" + process + "/stat");
  return text ? parse_process_stat(*text) : std::nullopt;
}

}  // namespace vmlaunch::base
