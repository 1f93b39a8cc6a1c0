#include "tests/bench/table.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace vmlaunch::bench {

namespace {

std::string number(double value) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(value < 10 ? 3 : 1) << value;
  return text.str();
}

/// For a document in XML.
std::string escaped(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    if (c == '<') {
      safe += "&lt;";
    } else if (c == '&') {
      safe += "&amp;";
    } else {
      safe += c;
    }
  }
  return safe;
}

}  // namespace

std::string to_text(const std::vector<Row>& rows) {
  std::ostringstream text;
  for (const Row& row : rows) {
    text << std::left << std::setw(58) << row.name << " " << std::right << std::setw(9)
         << number(row.value) << " " << std::left << std::setw(4) << row.unit << " at most "
         << number(row.limit) << ": " << (row.met() ? "met" : "MISSED") << "  (" << row.basis
         << ")\n";
  }
  return text.str();
}

nlohmann::json to_json(const std::vector<Row>& rows) {
  nlohmann::json json = nlohmann::json::array();
  for (const Row& row : rows) {
    json.push_back({{"name", row.name},
                    {"unit", row.unit},
                    {"value", row.value},
                    {"limit", row.limit},
                    {"met", row.met()},
                    {"basis", row.basis}});
  }
  return json;
}

std::string to_svg(const std::vector<Row>& rows) {
  constexpr int kRow = 26;
  constexpr int kLeft = 420;
  constexpr int kFull = 300;  // the length of a limit
  std::ostringstream svg;
  const int height = kRow * static_cast<int>(rows.size() + 2);
  svg << "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"" << height
      << "\" font-family=\"sans-serif\" font-size=\"13\">\n"
      << "<rect width=\"900\" height=\"" << height << "\" fill=\"white\"/>\n"
      << "<line x1=\"" << kLeft + kFull << "\" y1=\"0\" x2=\"" << kLeft + kFull << "\" y2=\""
      << height - kRow << "\" stroke=\"black\"/>\n"
      << "<text x=\"" << kLeft + kFull << "\" y=\"" << height - 8
      << "\" text-anchor=\"middle\">what it must be</text>\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const int y = kRow * static_cast<int>(i) + 6;
    const double part = row.limit > 0 ? row.value / row.limit : (row.met() ? 0 : 1.5);
    const double length = kFull * std::clamp(part, 0.005, 1.5);
    svg << "<text x=\"8\" y=\"" << y + 14 << "\">" << escaped(row.name) << "</text>\n"
        << "<rect x=\"" << kLeft << "\" y=\"" << y << "\" width=\"" << length
        << "\" height=\"18\" fill=\"" << (row.met() ? "#4a90a4" : "#c0504d") << "\"/>\n"
        << "<text x=\"" << kLeft + 6 << "\" y=\"" << y + 14 << "\">" << number(row.value) << " "
        << escaped(row.unit) << "</text>\n";
  }
  svg << "</svg>\n";
  return svg.str();
}

}  // namespace vmlaunch::bench
