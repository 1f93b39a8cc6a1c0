#include "launcher/steps/recovery.hpp"

namespace vmlaunch::launcher::steps {

std::optional<Undone> recover_vm(Host& host, const StateFolders& folders, const std::string& vm) {
  try {
    std::optional<Journal> journal = Journal::open(folders.journal, vm);
    if (!journal) {
      return std::nullopt;
    }
    return recover(host, *journal);
  } catch (const std::exception& error) {
    return Undone{ExitCode::host_not_restored, {}, {error.what()}};
  }
}

}  // namespace vmlaunch::launcher::steps
