#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/unique_fd.hpp"

namespace vmlaunch::launcher::steps {

/// A name that one guardian has, a VM's or a device's: an fcntl lock of this process, which ends
/// with it whatever children it leaves behind.
class Lock {
 public:
  enum class Purpose {
    run,       ///< for as long as a VM runs
    recovery,  ///< for a moment, which others wait for
  };

  /// Nothing when a run of another process has it, or a recovery for over a minute. Throws
  /// std::system_error.
  [[nodiscard]] static std::optional<Lock> take(const std::string& folder,
                                                const std::string& name,
                                                Purpose purpose);

  /// Takes away what dead processes have left in the folder. This process must have no lock there:
  /// to look at its own would give it up.
  static void clear(const std::string& folder);

  /// What running VMs have, each with who has it; not what is being recovered just now.
  [[nodiscard]] static std::map<std::string, std::string> had_by_runs(const std::string& folder);

  /// Who has it; nothing when nobody does.
  [[nodiscard]] static std::optional<pid_t> holder(const std::string& folder,
                                                   const std::string& name);

  /// " (its guardian is pid 17)", " (pid 17 recovers it)"; "" when nobody has it.
  [[nodiscard]] static std::string describe_holder(const std::string& folder,
                                                   const std::string& name);

  Lock(Lock&&) = default;
  Lock& operator=(Lock&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(file_, other.file_);
    return *this;
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock();

 private:
  [[nodiscard]] static std::optional<Lock> try_to_take(const std::string& path, Purpose purpose);

  Lock(std::string path, base::UniqueFd file) : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  base::UniqueFd file_;
};

}  // namespace vmlaunch::launcher::steps
