#pragma once

#include <cstddef>
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

/// A recorded host, for `vmlaunch host` elsewhere.
struct Record {
  std::vector<Entry> entries;
  std::size_t functions = 0;        ///< PCI functions in it
  std::vector<std::string> unseen;  ///< what is not in it, and why, as in Host
};

/// What look_at_host reads, so that it finds the same in the record; whether vfio-pci and UEFI
/// builds are there; and what helps to understand a report about devices, though no plan depends on
/// it: driver overrides, power settings. Not the rest of a survey: nodes in /dev/vfio, sound
/// servers, users, limits. No serial numbers, no MAC addresses, no name of a disk or a person.
/// Throws Failure for a tree that cannot be a kernel's.
[[nodiscard]] Record record(const base::Tree& tree);

/// Writes a record as a tree with relative links, as sysfs has them. The folder is made, or is
/// empty and the caller's own; else it throws Failure (preflight).
void write_record(const Record& record, const std::string& folder);

}  // namespace vmlaunch::launcher::survey
