#include "base/byte_size.hpp"

#include "base/text.hpp"

namespace vmlaunch::base {

namespace {

constexpr std::string_view kUnits = "KMGT";

}  // namespace

std::optional<ByteSize> parse_byte_size(std::string_view text) {
  const std::size_t digits = text.find_first_not_of("0123456789");
  const auto number = parse_number<std::uint64_t>(text.substr(0, digits));
  if (!number) {
    return std::nullopt;
  }
  if (digits == std::string_view::npos) {
    return ByteSize{*number};
  }
  const std::size_t unit = kUnits.find(text[digits]);
  const std::string_view rest = text.substr(digits + 1);
  if (unit == std::string_view::npos || !(rest.empty() || rest == "iB")) {
    return std::nullopt;
  }
  const auto shift = static_cast<unsigned>(10 * (unit + 1));
  if (*number > (UINT64_MAX >> shift)) {
    return std::nullopt;
  }
  return ByteSize{*number << shift};
}

std::string to_string(ByteSize size) {
  std::uint64_t number = size.bytes;
  std::size_t unit = 0;
  while (unit < kUnits.size() && number != 0 && number % kKiB == 0) {
    number /= kKiB;
    ++unit;
  }
  return std::to_string(number) + (unit == 0 ? "" : std::string(1, kUnits[unit - 1]));
}

}  // namespace vmlaunch::base
