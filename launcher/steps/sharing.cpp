#include "launcher/steps/sharing.hpp"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Longer than whoever has it may wait for the kernel to take an attribute.
constexpr std::chrono::seconds kDeadline{30};

base::UniqueFd lock(const std::string& folder) {
  base::UniqueFd fd = base::open_file(folder, O_RDONLY | O_DIRECTORY);
  const auto deadline = std::chrono::steady_clock::now() + kDeadline;
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      base::throw_errno("lock " + folder);
    }
    if (std::chrono::steady_clock::now() > deadline) {
      throw Stuck("Cannot lock " + folder + ": another run waits for the kernel; type: fuser -v " +
                  base::shell_quote(folder));
    }
    const timespec pause{0, 10'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return fd;
}

}  // namespace

Sharing::Sharing(const Journal& mine)
    : folder_(std::filesystem::path(mine.path()).parent_path()),
      vm_(std::filesystem::path(mine.path()).filename()),
      lock_(lock(folder_)) {}

std::vector<Sharing::Other> Sharing::others(const Step& step) const {
  std::vector<Other> all;
  for (const std::string& vm : journalled_vms(folder_)) {
    try {
      const auto journal = vm == vm_ ? std::nullopt : Journal::open(folder_, vm);
      if (!journal || !journal->of_this_boot()) {
        continue;
      }
      for (const Journal::Entry& entry : journal->entries()) {
        if (!entry.settled && entry.step->object() == step->object()) {
          all.push_back({vm, entry});
        }
      }
    } catch (const JournalError&) {
      // Every start tells of it, and nothing of it is ever undone.
    }
  }
  return all;
}

std::vector<Json> Sharing::found_by_others(const Step& step) const {
  std::vector<Json> all;
  for (Other& other : others(step)) {
    all.push_back(std::move(other.entry.found));
  }
  return all;
}

std::optional<Json> Sharing::found_before(const Step& step) const {
  const std::vector<Other> all = others(step);
  if (all.empty()) {
    return std::nullopt;
  }
  const Other& same = all.front();
  if (!(same.entry.step == step)) {
    throw Failure(ExitCode::held,
                  "Cannot " + step->describe() + ": the VM " + base::printable(same.vm) +
                      " needs it otherwise (" + same.entry.step->describe() +
                      "); stop that first, or change one of the configs");
  }
  return same.entry.found;
}

}  // namespace vmlaunch::launcher::steps
