#pragma once

#include <string>
#include <vector>

namespace vmlaunch::tests {

/// Compares a whole text with the file tests/data/`name`. On a difference the test goes on, fails,
/// shows the first line that differs and leaves the new text in the build folder, under the same
/// path. With VMLAUNCH_UPDATE_GOLDEN=1 in the environment the file is rewritten instead.
void check_golden(const std::string& name, const std::string& text);

/// The text of a file, given by its path below the sources.
[[nodiscard]] std::string read_source(const std::string& path);

/// The names, sorted, of the files in a folder below the sources that end in `end`.
[[nodiscard]] std::vector<std::string> sources_in(const std::string& folder,
                                                  const std::string& end);

}  // namespace vmlaunch::tests
