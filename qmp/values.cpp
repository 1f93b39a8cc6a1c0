#include "qmp/values.hpp"

#include <limits>

namespace vmlaunch::qmp {

const Json* member(const Json& object, const char* key) {
  if (!object.is_object()) {
    return nullptr;
  }
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

std::string text_of(const Json& object, const char* key) {
  const Json* value = member(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

bool flag_of(const Json& object, const char* key) {
  const Json* value = member(object, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

std::optional<std::int64_t> integer_of(const Json& object, const char* key) {
  constexpr std::uint64_t kLargest = std::numeric_limits<std::int64_t>::max();
  const Json* value = member(object, key);
  if (value == nullptr || !value->is_number_integer() ||
      (value->is_number_unsigned() && value->get<std::uint64_t>() > kLargest)) {
    return std::nullopt;
  }
  return value->get<std::int64_t>();
}

}  // namespace vmlaunch::qmp
