#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launcher/config/document.hpp"

namespace vmlaunch::launcher::config {

/// A config under check: where its file lies, and what is wrong with it so far.
class Review {
 public:
  /// `path` is the config's absolute path; `issues` holds what could not be read, and outlives it.
  Review(const std::string& path, std::vector<Issue>& issues)
      : file_(path), unread_(issues), issues_(issues) {}

  [[nodiscard]] const std::filesystem::path& file() const { return file_; }

  /// A value that could not be read is not wrong, or missing, as well.
  [[nodiscard]] bool unread(const std::string& pointer) const;

  void report(const std::string& pointer, const std::string& message);

  /// For a key that has a meaning only with another one.
  void report_without(const std::string& needed,
                      const std::string& key,
                      const std::string& message);

  /// Absolute: paths are relative to the config's folder, wherever vmlaunch was started. Reports an
  /// empty one.
  [[nodiscard]] std::string path(const std::string& pointer, const std::string& written);

 private:
  std::filesystem::path file_;
  std::vector<Issue> unread_;
  std::vector<Issue>& issues_;
};

}  // namespace vmlaunch::launcher::config
