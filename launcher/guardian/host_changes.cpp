#include "launcher/guardian/host_changes.hpp"

#include <system_error>

#include "base/text.hpp"
#include "launcher/steps/recovery.hpp"

namespace vmlaunch::launcher::guardian {

namespace {

[[noreturn]] void refuse_held(const std::string& folder, const std::string& vm) {
  throw Failure(ExitCode::held,
                "Cannot start " + vm + ": it runs already" +
                    steps::Lock::describe_holder(folder, vm) +
                    "; stop it first, or give this VM another name");
}

/// The lines of one recovery as a run shows them.
std::vector<std::string> lines_of(const std::string& vm, const steps::Undone& undone) {
  const std::string left = "left by an earlier run of " + vm;
  const std::string put_back = left + ", put back now: ";
  std::vector<std::string> lines;
  for (const std::string& line : undone.restored) {
    lines.push_back(put_back + line);
  }
  for (const std::string& line : undone.leftovers) {
    lines.push_back(left);
    lines.back() += ": " + line;
  }
  return lines;
}

[[noreturn]] void refuse_unrecovered(const std::string& vm, const steps::Undone& undone) {
  throw Failure(undone.code,
                base::join(lines_of(vm, undone), "\n") + "\nCannot start " + vm +
                    " before that is put back; type: vmlaunch recover " + vm);
}

/// Whatever is the matter with another VM does not keep this one from starting. Nothing for one
/// that runs.
std::optional<steps::Undone> recover_other(steps::Host& host,
                                           const steps::StateFolders& folders,
                                           const std::string& vm) {
  try {
    const auto lock = steps::Lock::take(folders.locks, vm, steps::Lock::Purpose::recovery);
    return lock ? steps::recover_vm(host, folders, vm) : std::nullopt;
  } catch (const std::system_error& error) {
    return steps::Undone{ExitCode::host_not_restored, {}, {error.what()}, true};
  }
}

}  // namespace

std::vector<std::string> HostChanges::look(const std::string& vm) const {
  const steps::StateFolders folders = steps::find_state_folders();
  if (steps::Lock::holder(folders.locks, vm)) {
    refuse_held(folders.locks, vm);
  }
  return steps::leftovers(folders, vm);
}

std::vector<std::string> HostChanges::begin(const std::string& vm, bool force_tainted) {
  const steps::StateFolders folders = steps::find_state_folders();
  steps::make_state_folders(folders);
  steps::Lock::clear(folders.locks);
  lock_ = steps::Lock::take(folders.locks, vm, steps::Lock::Purpose::run, vm);
  if (!lock_) {
    refuse_held(folders.locks, vm);
  }
  vm_ = vm;
  reservations_.emplace(steps::Lock::Purpose::run, vm);
  std::vector<std::string> lines;
  for (const std::string& other : steps::journalled_vms(folders.journal)) {
    const auto undone = other == vm ? steps::recover_vm(host_, folders, other)
                                    : recover_other(host_, folders, other);
    if (!undone) {
      continue;
    }
    if (other == vm && undone->again) {
      if (!force_tainted || undone->code != ExitCode::needs_power_cycle) {
        refuse_unrecovered(vm, *undone);
      }
      journal_ = steps::Journal::open(folders.journal, vm);
    }
    const std::vector<std::string> told = lines_of(other, *undone);
    lines.insert(lines.end(), told.begin(), told.end());
  }
  return lines;
}

void HostChanges::reserve(const std::vector<steps::Step>& steps) {
  reservations_->take_all(steps::find_state_folders().locks, steps);
}

void HostChanges::require_unreserved(const std::vector<steps::Step>& steps) const {
  const std::string folder = steps::find_state_folders().locks;
  for (const steps::Step& step : steps) {
    steps::Reservations::require_free(folder, step);
  }
}

std::optional<steps::Lock> HostChanges::claim(const std::string& name) const {
  return steps::Lock::take(steps::find_state_folders().locks, name, steps::Lock::Purpose::run, vm_);
}

void HostChanges::check(const std::vector<steps::Step>& steps) const {
  ExitCode code = ExitCode::ended;
  std::vector<std::string> problems;
  for (const steps::Step& step : steps) {
    try {
      step->check(host_);
    } catch (const Failure& failure) {
      code = worse(code, failure.code());
      problems.emplace_back(failure.what());
    }
  }
  if (!problems.empty()) {
    throw Failure(code, base::join(problems, "\n"));
  }
}

void HostChanges::apply(const steps::Step& step, const steps::Context& context) {
  const steps::StateFolders folders = steps::find_state_folders();
  try {
    if (!journal_) {
      journal_ = steps::Journal::create(folders.journal, vm_);
    }
    reservations_->take_turn(folders.locks, step, context.waiting);
    change(step, context);
  } catch (const steps::Stuck&) {
    note_stuck(step);
    throw;
  } catch (const Failure&) {
    throw;
  } catch (const std::system_error& error) {
    throw Failure(ExitCode::failed,
                  "Cannot " + step->describe() + ": " + error.what() + "; type: df " +
                      base::shell_quote(folders.journal) + " " + base::shell_quote(folders.locks));
  } catch (const std::exception& error) {
    // Whatever it is, what was changed so far is undone.
    throw Failure(ExitCode::failed, "Cannot " + step->describe() + ": " + error.what());
  }
}

void HostChanges::change(const steps::Step& step, const steps::Context& context) {
  try {
    steps::apply(step, host_, context, *journal_);
  } catch (const std::system_error& error) {
    const bool busy = error.code().value() == EBUSY;
    throw Failure(busy ? ExitCode::device_busy : ExitCode::failed,
                  "Cannot " + step->describe() + ": " + error.what() + "; type: dmesg | tail");
  }
}

void HostChanges::after_start(const steps::Tell& tell) {
  if (!journal_) {
    return;
  }
  try {
    steps::after_start(host_, *journal_, tell);
    reservations_->end_turns();
  } catch (const std::system_error& error) {
    throw Failure(ExitCode::failed,
                  std::string("Cannot give back what only QEMU's start needed: ") + error.what() +
                      "; type: dmesg | tail");
  }
}

void HostChanges::restart(const std::vector<steps::Step>& all, const steps::Context& context) {
  const steps::Undone undone = steps::undo_for_restart(host_, *journal_);
  if (undone.code != ExitCode::ended) {
    throw Failure(undone.code, "Cannot start QEMU anew:\n" + base::join(undone.leftovers, "\n"));
  }
  for (const steps::Step& step : all) {
    if (step->is_per_qemu()) {
      apply(step, context);
    }
  }
}

void HostChanges::keep() {
  journal_->remove();
  journal_.reset();
}

void HostChanges::note_stuck(const steps::Step& step) {
  const std::vector<std::string> objects = step->objects();
  stuck_.insert(objects.begin(), objects.end());
}

steps::Undone HostChanges::undo() {
  if (!journal_) {
    return {};
  }
  try {
    steps::Undone undone = steps::undo_all(host_, *journal_, stuck_);
    journal_.reset();
    return undone;
  } catch (const std::system_error& error) {
    return {ExitCode::host_not_restored, {}, {error.what()}, true};
  }
}

}  // namespace vmlaunch::launcher::guardian
