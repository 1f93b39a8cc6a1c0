#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"

namespace vmlaunch::base {

/// Reads below a folder as if it were "/": no link in it leads out (openat2(2), RESOLVE_IN_ROOT),
/// so a recorded host can be looked at like the real one, whoever made it. Paths begin with "/".
class Tree {
 public:
  /// "" is the host itself. Throws when the folder cannot be opened.
  explicit Tree(const std::string& root);

  [[nodiscard]] bool exists(const std::string& path) const;

  /// Whether this process lacks the right to see what is there, so that "not there" says nothing.
  [[nodiscard]] bool is_hidden(const std::string& path) const;

  /// What stat(2) says, links followed; nothing if it is not there.
  [[nodiscard]] std::optional<struct stat> status(const std::string& path) const;

  /// A small file without the newline at its end; nothing if it is not there or cannot be read.
  /// A FIFO or device is not read, and not even opened.
  [[nodiscard]] std::optional<std::string> read(const std::string& path) const;

  /// Names in a folder, sorted; none if it is not there.
  [[nodiscard]] std::vector<std::string> list(const std::string& path) const;

  /// The last part of a link's target, as sysfs uses links ("driver", "iommu_group"); nothing if it
  /// is not a link.
  [[nodiscard]] std::optional<std::string> link_name(const std::string& path) const;

  /// A link's target with every link in it followed, below the root; nothing if it leads nowhere.
  [[nodiscard]] std::optional<std::string> resolve(const std::string& path) const;

  /// Opens with O_CLOEXEC added; empty, with errno, when it cannot.
  [[nodiscard]] UniqueFd open(const std::string& path, int flags) const;

  /// The root with `path` behind it, for whoever must name the file.
  [[nodiscard]] std::string path_of(const std::string& path) const { return root_ + path; }

 private:
  std::string root_;
  UniqueFd folder_;
};

}  // namespace vmlaunch::base
