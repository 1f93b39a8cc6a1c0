#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "launcher/config/document.hpp"

namespace vmlaunch::launcher::config {

/// Reads one JSON object key by key. It learns the known keys from what it is asked for, and
/// `finish` reports all others, each with the nearest known one.
class ObjectReader {
 public:
  /// `value` must outlive the reader. Something other than an object is reported here.
  ObjectReader(const Json& value, std::string pointer, std::vector<Issue>& issues);

  /// `expected` names its form, for another type's error.
  [[nodiscard]] std::optional<std::string> text(const char* key, const char* expected = "a text");
  [[nodiscard]] std::optional<bool> boolean(const char* key);
  /// Nothing for "auto" too.
  [[nodiscard]] std::optional<bool> boolean_or_auto(const char* key);
  [[nodiscard]] std::optional<unsigned> number(const char* key, unsigned least, unsigned most);

  /// A text with a form of its own; `parse` gives nothing when it has another.
  template <typename Parse>
  auto value(const char* key, Parse parse, const char* expected)
      -> decltype(parse(std::string_view())) {
    const std::optional<std::string> written = text(key, expected);
    if (!written) {
      return std::nullopt;
    }
    auto parsed = parse(*written);
    if (!parsed) {
      report(key, std::string("expected ") + expected + ", found \"" + *written + "\"");
    }
    return parsed;
  }

  /// One of a few names.
  template <typename Enum>
  std::optional<Enum> choice(const char* key,
                             const std::vector<std::pair<const char*, Enum>>& names) {
    const std::optional<std::string> written = text(key);
    return written ? one_of(*written, child(pointer_, key), names) : std::nullopt;
  }

  /// An array of some of a few names, none of them twice.
  template <typename Enum>
  std::vector<Enum> choices(const char* key,
                            const std::vector<std::pair<const char*, Enum>>& names) {
    std::vector<Enum> chosen;
    const std::vector<std::optional<std::string>> written = texts(key);
    for (std::size_t i = 0; i < written.size(); ++i) {
      const std::string pointer = child(child(pointer_, key), i);
      const auto meaning = written[i] ? one_of(*written[i], pointer, names) : std::nullopt;
      if (meaning && std::find(chosen.begin(), chosen.end(), *meaning) != chosen.end()) {
        issues_.push_back({pointer, "\"" + *written[i] + "\" is listed twice"});
      } else if (meaning) {
        chosen.push_back(*meaning);
      }
    }
    return chosen;
  }

  /// Calls `read` with a reader of the object under `key`, if there is one, and finishes it.
  void object(const char* key, const std::function<void(ObjectReader&)>& read);

  /// Calls `read` for each object of the array under `key`, if there is one.
  void objects(const char* key, const std::function<void(ObjectReader&)>& read);

  /// The numbers of an array; nothing in the place of what was reported.
  [[nodiscard]] std::vector<std::optional<unsigned>> numbers(const char* key,
                                                             unsigned least,
                                                             unsigned most);

  /// The texts of an array; nothing in the place of what was reported.
  [[nodiscard]] std::vector<std::optional<std::string>> texts(const char* key);

  /// The value under `key` as it stands, for keys that take several types.
  [[nodiscard]] const Json* raw(const char* key);

  void report(const char* key, const std::string& message);
  [[nodiscard]] const std::string& pointer() const { return pointer_; }
  [[nodiscard]] std::vector<Issue>& issues() { return issues_; }

  /// Reports every key that nobody asked for.
  void finish();

 private:
  std::optional<unsigned> read_number(const Json& value,
                                      const std::string& pointer,
                                      unsigned least,
                                      unsigned most);
  std::optional<std::string> read_text(const Json& value,
                                       const std::string& pointer,
                                       const char* expected);
  void report_choice(const std::string& pointer,
                     const std::string& written,
                     const std::vector<std::string>& known);

  template <typename Enum>
  std::optional<Enum> one_of(const std::string& written,
                             const std::string& pointer,
                             const std::vector<std::pair<const char*, Enum>>& names) {
    std::vector<std::string> known;
    for (const auto& [name, meaning] : names) {
      if (written == name) {
        return meaning;
      }
      known.emplace_back(name);
    }
    report_choice(pointer, written, known);
    return std::nullopt;
  }

  const Json& value_;
  std::string pointer_;
  std::vector<Issue>& issues_;
  std::vector<std::string> known_;
};

/// What a value is, for messages: "an object", a number or text as it stands.
[[nodiscard]] std::string type_of(const Json& value);

}  // namespace vmlaunch::launcher::config
