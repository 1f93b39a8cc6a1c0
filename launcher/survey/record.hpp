#pragma once

#include <string>
#include <vector>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// One thing of a recorded host.
struct Entry {
  enum class Kind { folder, file, link };

  Kind kind = Kind::folder;
  std::string path;     ///< below the root, begins with "/"
  std::string content;  ///< of a file; a link's target
  unsigned mode = 0644;

  bool operator==(const Entry&) const = default;
};

/// All that the survey looks at, so that a look at the record finds the same; nothing else: no
/// serial numbers, no MAC addresses. Throws Failure for a tree that cannot be a kernel's.
[[nodiscard]] std::vector<Entry> record(const base::Tree& tree);

/// Writes a record as a tree with relative links, as sysfs has them. The folder is made, or is
/// empty and the caller's own; else it throws Failure (preflight).
void write_record(const std::vector<Entry>& record, const std::string& folder);

}  // namespace vmlaunch::launcher::survey
