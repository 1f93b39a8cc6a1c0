#include "base/text.hpp"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace vmlaunch::base {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> pieces;
  std::size_t start = 0;
  for (std::size_t end = text.find(separator); end != std::string_view::npos;
       end = text.find(separator, start)) {
    pieces.emplace_back(text.substr(start, end - start));
    start = end + 1;
  }
  pieces.emplace_back(text.substr(start));
  return pieces;
}

std::string join(const std::vector<std::string>& pieces, std::string_view separator) {
  std::string text;
  for (const std::string& piece : pieces) {
    text += &piece == &pieces.front() ? "" : separator;
    text += piece;
  }
  return text;
}

namespace {

/// How many bytes from `text`'s start on are one character of UTF-8 that a terminal shows; 0 for a
/// control character (C0, DEL and C1) and for bytes that are no UTF-8.
std::size_t shown_length(std::string_view text) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(0);
  if (first < 0x80) {
    return first >= 0x20 && first != 0x7f ? 1 : 0;
  }
  const std::size_t length = first >= 0xf0 ? 4 : (first >= 0xe0 ? 3 : 2);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) {
      return 0;
    }
  }
  const bool c1 = first == 0xc2 && byte(1) < 0xa0;
  return first < 0xc2 || first > 0xf4 || c1 ? 0 : length;
}

}  // namespace

std::string hex(std::uint64_t value, std::size_t digits) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(digits, '0');
  for (auto digit = text.rbegin(); digit != text.rend(); ++digit, value >>= 4U) {
    *digit = kDigits[value & 0xfU];
  }
  return text;
}

std::uint64_t fingerprint(std::string_view bytes) {
  std::uint64_t sum = 0xcbf29ce484222325;
  for (const char byte : bytes) {
    sum = (sum ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  }
  return sum;
}

std::string printable(std::string_view text) {
  static constexpr std::string_view kHex = "0123456789abcdef";
  std::string shown;
  while (!text.empty()) {
    const std::size_t length = shown_length(text);
    if (length == 0) {
      const auto byte = static_cast<unsigned char>(text.front());
      shown += {'\\', 'x', kHex[byte >> 4U], kHex[byte & 0xfU]};
    } else {
      shown += text.substr(0, length);
    }
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return shown;
}

std::string shell_quote(std::string_view word) {
  static constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos) {
    return std::string(word);
  }
  std::string quoted = "'";
  while (!word.empty()) {
    const std::size_t length = shown_length(word);
    if (length == 0) {
      const auto byte = static_cast<unsigned char>(word.front());
      const auto digit = [&](unsigned shift) {
        return static_cast<char>('0' + (byte >> shift & 7U));
      };
      quoted += "'$'\\";
      quoted += {digit(6), digit(3), digit(0)};
      quoted += "''";
    } else if (word.front() == '\'') {
      quoted += "'\\''";
    } else {
      quoted += word.substr(0, length);
    }
    word.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return quoted + "'";
}

namespace {

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i + 1;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i] == b[j] ? 0U : 1U);
      diagonal = row[j + 1];
      row[j + 1] = std::min({substituted, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::optional<std::string> nearest(std::string_view word,
                                   const std::vector<std::string>& candidates) {
  const std::size_t far = word.size() < 3 ? 1 : std::max<std::size_t>(2, word.size() / 2);
  std::optional<std::string> best;
  std::size_t best_distance = far + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace vmlaunch::base
