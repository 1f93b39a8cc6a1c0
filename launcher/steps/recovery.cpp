#include "launcher/steps/recovery.hpp"

#include "base/text.hpp"
#include "launcher/steps/reservations.hpp"

namespace vmlaunch::launcher::steps {

std::optional<Undone> recover_vm(Host& host, const StateFolders& folders, const std::string& vm) {
  try {
    std::optional<Journal> journal = Journal::open(folders.journal, vm);
    if (!journal) {
      return std::nullopt;
    }
    // What another VM has by now must not be taken from under it, nor be had by one meanwhile.
    Reservations reservations(Lock::Purpose::recovery);
    for (const Journal::Entry& entry : journal->entries()) {
      if (journal->of_this_boot() && !entry.settled) {
        reservations.take(folders.locks, entry.step);
        reservations.take_turn(folders.locks, entry.step);
      }
    }
    return recover(host, *journal);
  } catch (const Failure& failure) {
    return Undone{failure.code(), {}, {failure.what()}, true};
  } catch (const std::exception& error) {
    return Undone{ExitCode::host_not_restored, {}, {error.what()}, true};
  }
}

std::vector<std::string> would_undo(const StateFolders& folders, const std::string& vm) {
  std::vector<std::string> lines;
  const std::optional<Journal> journal = Journal::open(folders.journal, vm);
  if (!journal || !journal->of_this_boot()) {
    return lines;
  }
  for (auto entry = journal->entries().rbegin(); entry != journal->entries().rend(); ++entry) {
    if (!entry->settled) {
      lines.push_back(entry->step->describe() + ": " + entry->step->describe_undo());
    }
  }
  return lines;
}

std::vector<std::string> leftovers(const StateFolders& folders, const std::string& vm) {
  std::vector<std::string> lines;
  for (const std::string& other : journalled_vms(folders.journal)) {
    if (Lock::holder(folders.locks, other)) {
      continue;
    }
    const std::string left = "left by an earlier run of " + base::printable(other);
    try {
      for (const std::string& line : would_undo(folders, other)) {
        lines.push_back(left);
        lines.back() += ", put back first: " + line;
      }
    } catch (const JournalError& error) {
      if (other == vm) {
        throw;
      }
      lines.push_back(left + ": " + error.what());
    }
  }
  return lines;
}

}  // namespace vmlaunch::launcher::steps
