#include <algorithm>
#include <string>
#include <vector>

#include "launcher/config/vm_spec.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/golden.hpp"

namespace vmlaunch::launcher::config {
namespace {

constexpr const char* kFolder = "tests/data/broken";

/// What a person would read; nothing if the config is taken.
std::string refusal(const std::string& file) {
  try {
    const Document document("@FILE@", tests::read_source(std::string(kFolder) + "/" + file));
    static_cast<void>(load(document, "/configs/" + file));
  } catch (const ConfigError& error) {
    CHECK(error.code() == ExitCode::usage);
    return std::string(error.what()) + "\n";
  }
  return "";
}

TEST_CASE("config: each broken config is refused with its exact message", "[config]") {
  const std::vector<std::string> files = tests::sources_in(kFolder, ".json");
  CHECK(files.size() >= 45);
  for (const std::string& file : files) {
    INFO(file);
    const std::string text = refusal(file);
    CHECK_FALSE(text.empty());
    tests::check_golden("broken/" + file.substr(0, file.size() - 5) + ".txt", text);
  }
}

TEST_CASE("config: each expected message belongs to a broken config", "[config]") {
  const std::vector<std::string> files = tests::sources_in(kFolder, ".json");
  for (const std::string& text : tests::sources_in(kFolder, ".txt")) {
    INFO(text);
    const std::string config = text.substr(0, text.size() - 4) + ".json";
    CHECK(std::find(files.begin(), files.end(), config) != files.end());
  }
}

TEST_CASE("config: no message can write to a terminal", "[config]") {
  const auto may_be_shown = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return c == '\n' || (byte >= 0x20 && byte != 0x7f);
  };
  for (const std::string& file : tests::sources_in(kFolder, ".json")) {
    INFO(file);
    const std::string text = refusal(file);
    CHECK(std::all_of(text.begin(), text.end(), may_be_shown));
    // U+0080 to U+009F are control characters too.
    for (std::size_t at = text.find('\xc2'); at != std::string::npos;
         at = text.find('\xc2', at + 1)) {
      CHECK(static_cast<unsigned char>(text.at(at + 1)) >= 0xa0);
    }
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::config
