#include "launcher/survey/bar.hpp"

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

constexpr unsigned kBars = 6;

constexpr std::uint64_t kMemory = 0x200;
constexpr std::uint64_t kPrefetchable = 0x2000;
constexpr std::uint64_t k64Bit = 0x100000;

std::optional<std::uint64_t> parse_hex(const std::string& word) {
  return word.starts_with("0x") ? base::parse_number<std::uint64_t>(word.substr(2), 16)
                                : std::nullopt;
}

}  // namespace

std::optional<std::vector<Bar>> parse_bars(const std::string& text) {
  std::vector<Bar> bars;
  unsigned number = 0;
  for (const std::string& line : base::split(text, '\n')) {
    if (text.empty() || number == kBars) {
      break;
    }
    const std::vector<std::string> words = base::split(line, ' ');
    if (words.size() != 3) {
      return std::nullopt;
    }
    const auto start = parse_hex(words[0]);
    const auto end = parse_hex(words[1]);
    const auto flags = parse_hex(words[2]);
    if (!start || !end || !flags) {
      return std::nullopt;
    }
    // One without a size ends before its start.
    if (*flags != 0 && *end >= *start && *end - *start != UINT64_MAX) {
      bars.push_back({number,
                      *start,
                      base::ByteSize{*end - *start + 1},
                      (*flags & kMemory) != 0,
                      (*flags & k64Bit) != 0,
                      (*flags & kPrefetchable) != 0,
                      {}});
    }
    ++number;
  }
  return bars;
}

std::vector<base::ByteSize> sizes_of(std::uint64_t mask) {
  // The capability ends at 8 EiB, which is bit 43.
  constexpr unsigned kSizes = 44;
  std::vector<base::ByteSize> sizes;
  for (unsigned bit = 0; bit < kSizes; ++bit) {
    if ((mask >> bit & 1U) != 0) {
      sizes.push_back(base::ByteSize{base::kMiB << bit});
    }
  }
  return sizes;
}

}  // namespace vmlaunch::launcher::survey
