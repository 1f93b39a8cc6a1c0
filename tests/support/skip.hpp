#pragma once

#include <string>

namespace vmlaunch::tests {

/// True if the test is to end here because `what` is not there, which ctest then shows as skipped.
/// Where VMLAUNCH_NO_SKIP is set, the test fails instead.
[[nodiscard]] bool skipped_without(const std::string& what, bool is_there);

[[nodiscard]] bool skipped_without_root();

}  // namespace vmlaunch::tests
