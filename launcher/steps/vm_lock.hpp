#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>

#include "base/unique_fd.hpp"

namespace vmlaunch::launcher::steps {

/// One guardian for a VM's name: an fcntl lock of this process, which ends with it whatever
/// children it leaves behind.
class VmLock {
 public:
  /// Nothing when another process has it. Throws std::system_error.
  [[nodiscard]] static std::optional<VmLock> take(const std::string& folder, const std::string& vm);

  /// Who has it; nothing when nobody does.
  [[nodiscard]] static std::optional<pid_t> holder(const std::string& folder,
                                                   const std::string& vm);

  VmLock(VmLock&&) = default;
  VmLock& operator=(VmLock&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(file_, other.file_);
    return *this;
  }
  VmLock(const VmLock&) = delete;
  VmLock& operator=(const VmLock&) = delete;
  ~VmLock();

 private:
  VmLock(std::string path, base::UniqueFd file) : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  base::UniqueFd file_;
};

}  // namespace vmlaunch::launcher::steps
