#pragma once

#include <string>

namespace vmlaunch::launcher::steps {

/// Where a guardian keeps what must outlive it.
struct StateFolders {
  std::string journal;  ///< one file for each VM that has changed the host
  std::string locks;    ///< one for each VM that runs
};

/// Of root /var/lib/vmlaunch/journal and /run/vmlaunch; of a user $XDG_STATE_HOME/vmlaunch/journal
/// and $XDG_RUNTIME_DIR/vmlaunch, with the defaults of the XDG base directory specification.
/// Throws Failure (preflight) for a user without any home.
[[nodiscard]] StateFolders find_state_folders();

/// Makes them, for this user alone. Throws Failure (preflight) when somebody else could change what
/// is in them.
void make_state_folders(const StateFolders& folders);

}  // namespace vmlaunch::launcher::steps
