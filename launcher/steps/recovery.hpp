#pragma once

#include <functional>
#include <optional>
#include <string>

#include "launcher/steps/lock.hpp"
#include "launcher/steps/state_folders.hpp"
#include "launcher/steps/transaction.hpp"

namespace vmlaunch::launcher::steps {

/// Undoes what a dead run of `vm` has left; nothing when it has left nothing. The caller has the
/// VM's lock. What cannot be read or put back is in the answer, not thrown.
[[nodiscard]] std::optional<Undone> recover_vm(Host& host,
                                               const StateFolders& folders,
                                               const std::string& vm);

/// What recover_vm would undo, last things first, a line each. Throws JournalError.
[[nodiscard]] std::vector<std::string> would_undo(const StateFolders& folders,
                                                  const std::string& vm);

/// What a start of `vm` would put back first: of all VMs that do not run, a line each. Throws
/// JournalError for a journal of `vm` that is not of our making; another one's is a line.
[[nodiscard]] std::vector<std::string> leftovers(const StateFolders& folders,
                                                 const std::string& vm);

}  // namespace vmlaunch::launcher::steps
