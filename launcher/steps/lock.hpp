#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/unique_fd.hpp"

namespace vmlaunch::launcher::steps {

/// A name that one guardian has, a VM's or a device's: an fcntl lock of this process, which ends
/// with it whatever children it leaves behind. So a killed one's is free at once, and who has one
/// is the kernel's word about a living lock: no process that got a dead one's number is taken for
/// it. The file says only for which VM it is. Names that are no VM's have a space or a colon.
class Lock {
 public:
  enum class Purpose {
    run,       ///< for as long as a VM runs
    recovery,  ///< for a moment, which others wait for
  };

  /// Nothing when a run of another process has it, or a recovery for over a minute. Throws
  /// std::system_error.
  /// `vm` is for whom it is, as others are told.
  [[nodiscard]] static std::optional<Lock> take(const std::string& folder,
                                                const std::string& name,
                                                Purpose purpose,
                                                const std::string& vm = "");

  /// Waits until nobody else has it, and calls `waiting` every few seconds with who does. Throws
  /// Failure (held) at the deadline of two minutes, what `waiting` throws, and std::system_error.
  [[nodiscard]] static Lock wait_for(
      const std::string& folder,
      const std::string& name,
      const std::string& vm,
      const std::function<void(const std::string& text)>& waiting = {});

  /// Takes away what dead processes have left in the folder. This process must have no lock there:
  /// to look at its own would give it up.
  static void clear(const std::string& folder);

  /// What running VMs have, each with who has it; not what is being recovered just now.
  [[nodiscard]] static std::map<std::string, std::string> had_by_runs(const std::string& folder);

  /// Who has it; nothing when nobody does.
  [[nodiscard]] static std::optional<pid_t> holder(const std::string& folder,
                                                   const std::string& name);

  /// Who keeps others from `name`: "the VM win10 has it (its guardian is pid 17)".
  [[nodiscard]] static std::string describe_owner(const std::string& folder,
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
  [[nodiscard]] static std::optional<Lock> try_to_take(const std::string& path,
                                                       const std::string& content);

  Lock(std::string path, base::UniqueFd file) : path_(std::move(path)), file_(std::move(file)) {}

  std::string path_;
  base::UniqueFd file_;
};

}  // namespace vmlaunch::launcher::steps
