#pragma once

#include <string>

#include "base/unique_fd.hpp"

namespace vmlaunch::sandbox {

/// A file system in memory, in nobody's namespace until it is moved into one. It has little room: a
/// guest that took over QEMU finds no more. `what` it is, for messages; `attributes` of its mount
/// (MOUNT_ATTR_…). Needs CAP_SYS_ADMIN. Throws std::system_error.
[[nodiscard]] base::UniqueFd make_file_system(const std::string& what, unsigned attributes);

}  // namespace vmlaunch::sandbox
