#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::config {

using Json = nlohmann::json;

/// One thing that is wrong with a config: where (JSON pointer) and what.
struct Issue {
  std::string pointer;
  std::string message;
  bool at_key = false;  ///< the key itself is wrong, not its value

  bool operator==(const Issue&) const = default;
};

/// Everything that is wrong with a config, one line each: file:line:column: pointer: message.
class ConfigError : public Failure {
 public:
  explicit ConfigError(const std::vector<std::string>& lines);
};

/// A JSON text with comments, and where in it each value stands.
class Document {
 public:
  /// Throws ConfigError for a syntax error, a key given twice, or nesting deeper than 32.
  Document(std::string file, std::string text);

  [[nodiscard]] const Json& root() const { return root_; }
  [[nodiscard]] const std::string& file() const { return file_; }

  /// The lines to print, sorted by place. A pointer without a place gets that of its parent.
  [[nodiscard]] ConfigError error(const std::vector<Issue>& issues) const;

 private:
  struct Place {
    std::size_t key = 0;
    std::size_t value = 0;
  };
  class Builder;

  using PlacedIssue = std::pair<std::size_t, Issue>;

  [[nodiscard]] std::size_t offset(const Issue& issue) const;
  [[nodiscard]] std::string line(const PlacedIssue& placed) const;
  [[nodiscard]] ConfigError error_at(std::vector<PlacedIssue> issues) const;

  std::string file_;
  std::string text_;
  Json root_;
  std::map<std::string, Place> places_;  // by JSON pointer; offsets in bytes
};

/// `pointer` one level down; escapes as RFC 6901 says.
[[nodiscard]] std::string child(const std::string& pointer, std::string_view key);
[[nodiscard]] std::string child(const std::string& pointer, std::size_t index);

}  // namespace vmlaunch::launcher::config
