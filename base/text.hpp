#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmlaunch::base {

/// The whole of `text` as a number without sign or space; nothing for anything else.
template <typename Unsigned>
std::optional<Unsigned> parse_number(std::string_view text, int radix = 10) {
  Unsigned value{};
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value, radix);
  if (text.empty() || result.ec != std::errc{} || result.ptr != end) {
    return std::nullopt;
  }
  return value;
}

/// The pieces between separators; an empty text is one empty piece.
[[nodiscard]] std::vector<std::string> split(std::string_view text, char separator);

[[nodiscard]] std::string join(const std::vector<std::string>& pieces, std::string_view separator);

/// The lowest `digits` hexadecimal digits, without "0x".
[[nodiscard]] std::string hex(std::uint64_t value, std::size_t digits);

/// The same for the same bytes, on every machine and in every version (FNV-1a, 64 bits). No secret
/// and no proof: it tells one thing from another.
[[nodiscard]] std::uint64_t fingerprint(std::string_view bytes);

/// A copy in which control characters are shown as \xHH, so that no input can write to a terminal.
[[nodiscard]] std::string printable(std::string_view text);

/// One word of a shell command line that stands for exactly `word` and can be written to a
/// terminal: what `printable` would not show as it is becomes $'\ooo'.
[[nodiscard]] std::string shell_quote(std::string_view word);

/// The candidate that a person most likely meant; nothing if none is near.
[[nodiscard]] std::optional<std::string> nearest(std::string_view word,
                                                 const std::vector<std::string>& candidates);

}  // namespace vmlaunch::base
