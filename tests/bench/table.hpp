#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vmlaunch::bench {

/// What was measured, beside what it must be.
struct Row {
  std::string name;
  std::string unit;   ///< "x" for a ratio
  double value = 0;   ///< median
  double limit = 0;   ///< at most
  std::string basis;  ///< the figures that it was made from, for people

  [[nodiscard]] bool met() const { return value <= limit; }
};

/// One line for each.
[[nodiscard]] std::string to_text(const std::vector<Row>& rows);
[[nodiscard]] nlohmann::json to_json(const std::vector<Row>& rows);

/// A bar for each row: how much of its limit it takes.
[[nodiscard]] std::string to_svg(const std::vector<Row>& rows);

}  // namespace vmlaunch::bench
