#include "launcher/config/reader.hpp"

#include <algorithm>

#include "base/text.hpp"

namespace vmlaunch::launcher::config {

std::string type_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "\"" + value.get<std::string>() + "\"";
    case Json::value_t::boolean:
      return value.get<bool>() ? "true" : "false";
    default:
      return value.dump();
  }
}

ObjectReader::ObjectReader(const Json& value, std::string pointer, std::vector<Issue>& issues)
    : value_(value), pointer_(std::move(pointer)), issues_(issues) {
  if (!value_.is_object()) {
    issues_.push_back({pointer_, "expected an object, found " + type_of(value_)});
  }
}

const Json* ObjectReader::raw(const char* key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
    known_.emplace_back(key);
  }
  if (!value_.is_object()) {
    return nullptr;
  }
  const auto found = value_.find(key);
  return found == value_.end() ? nullptr : &*found;
}

void ObjectReader::report(const char* key, const std::string& message) {
  issues_.push_back({child(pointer_, key), message});
}

std::optional<std::string> ObjectReader::text(const char* key, const char* expected) {
  const Json* value = raw(key);
  return value == nullptr ? std::nullopt : read_text(*value, child(pointer_, key), expected);
}

std::optional<std::string> ObjectReader::read_text(const Json& value,
                                                   const std::string& pointer,
                                                   const char* expected) {
  if (!value.is_string()) {
    issues_.push_back({pointer, std::string("expected ") + expected + ", found " + type_of(value)});
    return std::nullopt;
  }
  auto written = value.get<std::string>();
  // A NUL would end the text early in every system call that it is given to.
  if (written.find('\0') != std::string::npos) {
    issues_.push_back({pointer, "a NUL character is not allowed"});
    return std::nullopt;
  }
  return written;
}

std::optional<bool> ObjectReader::boolean(const char* key) {
  const Json* value = raw(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_boolean()) {
    report(key, "expected true or false, found " + type_of(*value));
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<bool> ObjectReader::boolean_or_auto(const char* key) {
  const Json* value = raw(key);
  if (value == nullptr || value->is_boolean() || *value == "auto") {
    return value == nullptr || *value == "auto" ? std::nullopt : std::optional(value->get<bool>());
  }
  report(key, "expected \"auto\", true or false, found " + type_of(*value));
  return std::nullopt;
}

std::optional<unsigned> ObjectReader::read_number(const Json& value,
                                                  const std::string& pointer,
                                                  unsigned least,
                                                  unsigned most) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() < least ||
      value.get<std::uint64_t>() > most) {
    issues_.push_back({pointer,
                       "expected a whole number from " + std::to_string(least) + " to " +
                           std::to_string(most) + ", found " + type_of(value)});
    return std::nullopt;
  }
  return value.get<unsigned>();
}

std::optional<unsigned> ObjectReader::number(const char* key, unsigned least, unsigned most) {
  const Json* value = raw(key);
  return value == nullptr ? std::nullopt : read_number(*value, child(pointer_, key), least, most);
}

std::vector<std::optional<unsigned>> ObjectReader::numbers(const char* key,
                                                           unsigned least,
                                                           unsigned most) {
  std::vector<std::optional<unsigned>> numbers;
  const Json* value = raw(key);
  if (value == nullptr) {
    return numbers;
  }
  if (!value->is_array()) {
    report(key, "expected an array of whole numbers, found " + type_of(*value));
    return numbers;
  }
  numbers.reserve(value->size());
  for (std::size_t i = 0; i < value->size(); ++i) {
    numbers.push_back(read_number((*value)[i], child(child(pointer_, key), i), least, most));
  }
  return numbers;
}

void ObjectReader::object(const char* key, const std::function<void(ObjectReader&)>& read) {
  if (const Json* value = raw(key)) {
    ObjectReader reader(*value, child(pointer_, key), issues_);
    read(reader);
    reader.finish();
  }
}

void ObjectReader::objects(const char* key, const std::function<void(ObjectReader&)>& read) {
  const Json* value = raw(key);
  if (value == nullptr) {
    return;
  }
  if (!value->is_array()) {
    report(key, "expected an array of objects, found " + type_of(*value));
    return;
  }
  for (std::size_t i = 0; i < value->size(); ++i) {
    ObjectReader reader((*value)[i], child(child(pointer_, key), i), issues_);
    read(reader);
    reader.finish();
  }
}

std::vector<std::optional<std::string>> ObjectReader::texts(const char* key) {
  std::vector<std::optional<std::string>> texts;
  const Json* value = raw(key);
  if (value == nullptr) {
    return texts;
  }
  if (!value->is_array()) {
    report(key, "expected an array of texts, found " + type_of(*value));
    return texts;
  }
  for (std::size_t i = 0; i < value->size(); ++i) {
    texts.push_back(read_text((*value)[i], child(child(pointer_, key), i), "a text"));
  }
  return texts;
}

void ObjectReader::report_choice(const std::string& pointer,
                                 const std::string& written,
                                 const std::vector<std::string>& known) {
  issues_.push_back(
      {pointer,
       "expected one of \"" + base::join(known, "\", \"") + "\", found \"" + written + "\""});
}

void ObjectReader::finish() {
  if (!value_.is_object()) {
    return;
  }
  for (const auto& [key, value] : value_.items()) {
    if (std::find(known_.begin(), known_.end(), key) != known_.end()) {
      continue;
    }
    std::string message = "unknown key \"" + key + "\"";
    if (const auto near = base::nearest(key, known_)) {
      message += "; did you mean \"" + *near + "\"?";
    } else {
      message += "; known keys: " + base::join(known_, ", ");
    }
    issues_.push_back({child(pointer_, key), message, true});
  }
}

}  // namespace vmlaunch::launcher::config
