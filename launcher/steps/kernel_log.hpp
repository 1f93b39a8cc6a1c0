#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/tree.hpp"

namespace vmlaunch::launcher::steps {

/// Lines of the kernel's log about something.
struct KernelLog {
  std::uint64_t next = 0;               ///< what is said later has this number or a higher one
  std::vector<std::string> lines = {};  ///< oldest first
};

/// Those from number `since` on in which one of `about` occurs. Needs CAP_SYSLOG where
/// kernel.dmesg_restrict is on; a log that may not be read has no lines. Never waits. Source:
/// Documentation/ABI/testing/dev-kmsg.
[[nodiscard]] KernelLog read_kernel_log(const base::Tree& tree,
                                        const std::vector<std::string>& about,
                                        std::uint64_t since);

}  // namespace vmlaunch::launcher::steps
