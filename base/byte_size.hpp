#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vmlaunch::base {

/// An amount of memory in bytes.
struct ByteSize {
  std::uint64_t bytes = 0;

  auto operator<=>(const ByteSize&) const = default;
};

constexpr std::uint64_t kKiB = std::uint64_t{1} << 10U;
constexpr std::uint64_t kMiB = std::uint64_t{1} << 20U;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30U;

/// "512M", "12G", "4096": a whole number with an optional K, M, G or T (powers of 1024), which may
/// be followed by "iB". Nothing for any other text and for what does not fit 64 bits.
[[nodiscard]] std::optional<ByteSize> parse_byte_size(std::string_view text);

/// The shortest text that parse_byte_size reads back as the same size.
[[nodiscard]] std::string to_string(ByteSize size);

}  // namespace vmlaunch::base
