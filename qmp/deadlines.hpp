#pragma once

#include <chrono>
#include <cstddef>
#include <string_view>

namespace vmlaunch::qmp {

/// How long a healthy QEMU may take for a command, by its name: seconds for what it only looks up,
/// minutes for what opens devices and files, more for what writes them.
[[nodiscard]] std::chrono::milliseconds usual_deadline(std::string_view command);

/// The deadline within the bounds of the clock: not negative, and a year at most.
[[nodiscard]] std::chrono::milliseconds clamp_deadline(std::chrono::milliseconds deadline);

/// What the length of a command adds, since QEMU reads its monitor byte by byte.
[[nodiscard]] std::chrono::milliseconds deadline_of_bytes(std::size_t bytes);

}  // namespace vmlaunch::qmp
