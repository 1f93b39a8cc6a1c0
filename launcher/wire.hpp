#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace vmlaunch::launcher {

using Json = nlohmann::json;

/// A message or record that is not exactly of its form.
class FormError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A path may be any bytes, a JSON text only UTF-8: each byte travels as the character of its
/// number.
[[nodiscard]] inline std::string wire_text(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80) {
      text += c;
    } else {
      text += {static_cast<char>(0xc0U | (byte >> 6U)), static_cast<char>(0x80U | (byte & 0x3fU))};
    }
  }
  return text;
}

[[nodiscard]] inline Json wire_texts(const std::vector<std::string>& all) {
  Json texts = Json::array();
  for (const std::string& bytes : all) {
    texts.push_back(wire_text(bytes));
  }
  return texts;
}

/// Takes a JSON object apart, strictly: every field must be there, of its type and in its range,
/// and no other. Throws FormError.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {
    if (!json.is_object()) {
      throw FormError("expected an object");
    }
  }

  const Json& any(const char* key) {
    const auto found = json_.find(key);
    if (found == json_.end()) {
      throw FormError(std::string("\"") + key + "\" is missing");
    }
    taken_.insert(key);
    return *found;
  }

  /// All of it, for records whose keys only their owner knows.
  [[nodiscard]] const Json& object() const { return json_; }

  std::string text(const char* key) { return as_text(any(key), key); }

  bool boolean(const char* key) {
    const Json& value = any(key);
    require(value.is_boolean(), key);
    return value.get<bool>();
  }

  std::uint64_t number(const char* key, std::uint64_t least, std::uint64_t most) {
    return as_number(any(key), key, least, most);
  }

  const Json& array(const char* key, std::size_t most) {
    const Json& value = any(key);
    require(value.is_array() && value.size() <= most, key);
    return value;
  }

  std::vector<std::string> texts(const char* key) {
    std::vector<std::string> texts;
    for (const Json& element : array(key, kMostElements)) {
      texts.push_back(as_text(element, key));
    }
    return texts;
  }

  std::vector<std::uint64_t> numbers(const char* key, std::uint64_t least, std::uint64_t most) {
    std::vector<std::uint64_t> numbers;
    for (const Json& element : array(key, kMostElements)) {
      numbers.push_back(as_number(element, key, least, most));
    }
    return numbers;
  }

  void finish() const {
    if (taken_.size() != json_.size()) {
      throw FormError("a field too many");
    }
  }

 private:
  static constexpr std::size_t kMostElements = 4096;

  static void require(bool holds, const char* key) {
    if (!holds) {
      throw FormError(std::string("\"") + key + "\" has the wrong type or range");
    }
  }

  /// The bytes that wire_text was given. NUL would end a path or an argument early.
  static std::string as_text(const Json& value, const char* key) {
    require(value.is_string(), key);
    const auto& text = value.get_ref<const std::string&>();
    std::string bytes;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      require(byte != 0 && byte < 0xc4 && (byte < 0x80 || i + 1 < text.size()), key);
      if (byte < 0x80) {
        bytes += text[i];
      } else {
        const auto low = static_cast<unsigned char>(text[++i]);
        bytes += static_cast<char>(((byte & 3U) << 6U) | (low & 0x3fU));
      }
    }
    return bytes;
  }

  static std::uint64_t as_number(const Json& value,
                                 const char* key,
                                 std::uint64_t least,
                                 std::uint64_t most) {
    require(value.is_number_unsigned(), key);
    const auto number = value.get<std::uint64_t>();
    require(number >= least && number <= most, key);
    return number;
  }

  const Json& json_;
  std::set<std::string> taken_;
};

}  // namespace vmlaunch::launcher
