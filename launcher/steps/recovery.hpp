#pragma once

#include <functional>
#include <optional>
#include <string>

#include "launcher/steps/state_folders.hpp"
#include "launcher/steps/transaction.hpp"
#include "launcher/steps/vm_lock.hpp"

namespace vmlaunch::launcher::steps {

/// Undoes what a dead run of `vm` has left; nothing when it has left nothing. The caller has the
/// VM's lock. What cannot be read or put back is in the answer, not thrown.
[[nodiscard]] std::optional<Undone> recover_vm(Host& host,
                                               const StateFolders& folders,
                                               const std::string& vm);

}  // namespace vmlaunch::launcher::steps
