#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

namespace vmlaunch::base {

using Milliseconds = std::chrono::milliseconds;

/// "500ms", "60s", "5m", "2h": a whole number and its unit, at most 1000 hours.
[[nodiscard]] std::optional<Milliseconds> parse_duration(std::string_view text);

/// The shortest text that parse_duration reads back as the same time.
[[nodiscard]] std::string to_string(Milliseconds duration);

}  // namespace vmlaunch::base
