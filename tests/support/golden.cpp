#include "tests/support/golden.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/text.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::tests {

namespace {

namespace fs = std::filesystem;

fs::path source(const std::string& path) {
  return fs::path(SOURCE_DIR) / path;
}

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text << std::flush;
  REQUIRE(file.good());
}

bool is_updating() {
  const char* asked = std::getenv("VMLAUNCH_UPDATE_GOLDEN");
  return asked != nullptr && std::string(asked) == "1";
}

std::string first_difference(const std::string& expected, const std::string& found) {
  const std::vector<std::string> old_lines = base::split(expected, '\n');
  const std::vector<std::string> new_lines = base::split(found, '\n');
  const auto shown = [](const std::vector<std::string>& lines, std::size_t i) {
    return i < lines.size() ? base::printable(lines[i]) : std::string("(the end)");
  };
  std::size_t i = 0;
  while (i < old_lines.size() && i < new_lines.size() && old_lines[i] == new_lines[i]) {
    ++i;
  }
  return "line " + std::to_string(i + 1) + "\n  expected: " + shown(old_lines, i) +
         "\n  found:    " + shown(new_lines, i);
}

}  // namespace

void check_golden(const std::string& name, const std::string& text) {
  const fs::path golden = source("tests/data/" + name);
  if (is_updating()) {
    write(golden, text);
    return;
  }
  const bool exists = fs::exists(golden);
  const std::string expected = exists ? read_source("tests/data/" + name) : std::string();
  if (exists && expected == text) {
    SUCCEED();
    return;
  }
  const fs::path kept = fs::path(BINARY_DIR) / "tests/data" / name;
  write(kept, text);
  FAIL_CHECK("tests/data/" << name << " "
                           << (exists ? "differs in " + first_difference(expected, text)
                                      : std::string("does not exist"))
                           << "\nthe new text: " << kept.string()
                           << "\nto take it over, run again with VMLAUNCH_UPDATE_GOLDEN=1");
}

std::string read_source(const std::string& path) {
  INFO(path);
  std::ifstream file(source(path), std::ios::binary);
  REQUIRE(file.good());
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> sources_in(const std::string& folder, const std::string& end) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(source(folder))) {
    const std::string name = entry.path().filename();
    if (name.ends_with(end)) {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace vmlaunch::tests
