#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "launcher/steps/journal.hpp"

namespace vmlaunch::launcher::steps {

/// Who else has made a shared change: the journals of all VMs say so, and nothing else is kept. A
/// dead VM's counts until it is recovered. While this lives nobody else makes or undoes one: a lock
/// (flock(2)) of the journals' folder, which ends with the process, since its children close what
/// they inherit.
class Sharing {
 public:
  /// Waits for others. Throws Stuck at the deadline, and std::system_error.
  explicit Sharing(const Journal& mine);

  /// Another VM that has changed the same object, and not undone it.
  struct Other {
    std::string vm;
    Journal::Entry entry;
  };
  [[nodiscard]] std::vector<Other> others(const Step& step) const;

  /// What they found.
  [[nodiscard]] std::vector<Json> found_by_others(const Step& step) const;

  /// What another has found before it made the same change, for that is what was there before ours
  /// too. Throws Failure (held) for one that has changed the object otherwise.
  [[nodiscard]] std::optional<Json> found_before(const Step& step) const;

 private:
  std::string folder_;
  std::string vm_;
  base::UniqueFd lock_;
};

}  // namespace vmlaunch::launcher::steps
