#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "qmp/encoding.hpp"

namespace vmlaunch::qmp {

// Members of what QEMU sent, which is not trusted to be of the types that it promises.

/// Null if `object` is none or has no such member.
[[nodiscard]] const Json* member(const Json& object, const char* key);

/// "" unless there is a string.
[[nodiscard]] std::string text_of(const Json& object, const char* key);

/// False unless there is a true.
[[nodiscard]] bool flag_of(const Json& object, const char* key);

/// Nothing unless there is an integer that fits: nlohmann's own get() makes another number of one
/// that does not, and an integer of a fraction.
[[nodiscard]] std::optional<std::int64_t> integer_of(const Json& object, const char* key);

}  // namespace vmlaunch::qmp
