#include "tests/support/skip.hpp"

#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "tests/support/catch.hpp"

namespace vmlaunch::tests {

bool skipped_without(const std::string& what, bool is_there) {
  if (is_there) {
    return false;
  }
  const char* no_skip = std::getenv("VMLAUNCH_NO_SKIP");
  if (no_skip != nullptr && *no_skip != '\0') {
    FAIL("needs " << what << ", and VMLAUNCH_NO_SKIP is set: nothing may be left out");
  }
  // What VMLAUNCH_SKIPPED in tests/CMakeLists.txt looks for; WARN would break a long line.
  std::cout << "needs " << what << ": skipped" << std::endl;
  return true;
}

bool skipped_without_root() {
  return skipped_without("root", ::geteuid() == 0);
}

}  // namespace vmlaunch::tests
