#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu_set.hpp"
#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// What a tree says, for a message: in quotes, printable, and only its beginning.
[[nodiscard]] std::string quoted(std::string_view found);

/// What stands between spaces and tabs.
[[nodiscard]] std::vector<std::string> words_of(std::string text);

/// Reads facts that a host may tell or not, and never throws for one: what is hidden or cannot be
/// understood counts as not there, and is listed. It keeps what it read, so that a record holds
/// just that.
class Reader {
 public:
  /// The tree must live as long.
  explicit Reader(const base::Tree& tree) : tree_(tree) {}

  [[nodiscard]] const base::Tree& tree() const { return tree_; }

  /// Whether it is there: a folder or a link to one.
  bool has(const std::string& folder);

  /// A small file without the newline at its end.
  std::optional<std::string> text(const std::string& path);

  /// What `convert` makes of a file's text: an optional.
  template <typename Convert>
  auto parse(const std::string& path, Convert convert) -> decltype(convert(std::string())) {
    const std::optional<std::string> found = text(path);
    if (!found) {
      return std::nullopt;
    }
    auto value = convert(*found);
    if (!value) {
      doubt(path, *found);
    }
    return value;
  }

  /// A whole number; nothing for -1 as well, the kernel's word for "none".
  std::optional<std::uint64_t> number(const std::string& path);

  std::optional<base::CpuSet> cpus(const std::string& path);

  /// Names with spaces between them.
  std::vector<std::string> words(const std::string& path);

  /// The value of the first line "KEY: VALUE"; nothing else of the file is kept.
  std::optional<std::string> field(const std::string& path, const std::string& key);

  /// The numbers of what a folder has as PREFIX, number, SUFFIX; sorted, each kept as a folder.
  std::vector<unsigned> numbered(const std::string& folder,
                                 const std::string& prefix,
                                 const std::string& suffix = "");

  /// For a record, what stands for a file of which not all should be in it.
  void keep(const std::string& path, const std::string& content) { kept_[path] = content; }

  /// Lists something there that was not understood.
  void doubt(const std::string& path, std::string_view found);

  /// Path to content; nothing for a folder.
  [[nodiscard]] const std::map<std::string, std::optional<std::string>>& kept() const {
    return kept_;
  }
  /// "PATH: why", in the order of the look.
  [[nodiscard]] const std::vector<std::string>& unseen() const { return unseen_; }

 private:
  std::optional<std::string> look(const std::string& path);

  const base::Tree& tree_;
  std::map<std::string, std::optional<std::string>> kept_;
  std::vector<std::string> unseen_;
};

}  // namespace vmlaunch::launcher::survey
