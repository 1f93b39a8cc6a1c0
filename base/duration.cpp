#include "base/duration.hpp"

#include <array>
#include <cstdint>

#include "base/text.hpp"

namespace vmlaunch::base {

namespace {

struct Unit {
  std::string_view name;
  std::uint64_t milliseconds;
};

constexpr std::array kUnits = {
    Unit{"h", 3600000}, Unit{"m", 60000}, Unit{"s", 1000}, Unit{"ms", 1}};
constexpr std::uint64_t kLongest = 1000 * std::uint64_t{3600000};

}  // namespace

std::optional<Milliseconds> parse_duration(std::string_view text) {
  const std::size_t digits = text.find_first_not_of("0123456789");
  const auto number = parse_number<std::uint64_t>(text.substr(0, digits));
  if (!number || digits == std::string_view::npos) {
    return std::nullopt;
  }
  for (const Unit& unit : kUnits) {
    if (text.substr(digits) == unit.name && *number <= kLongest / unit.milliseconds) {
      return Milliseconds(static_cast<std::int64_t>(*number * unit.milliseconds));
    }
  }
  return std::nullopt;
}

std::string to_string(Milliseconds duration) {
  const auto count = static_cast<std::uint64_t>(duration.count());
  if (count == 0) {
    return "0s";
  }
  const Unit* unit = kUnits.data();
  while (count % unit->milliseconds != 0) {
    ++unit;
  }
  return std::to_string(count / unit->milliseconds) + std::string(unit->name);
}

}  // namespace vmlaunch::base
