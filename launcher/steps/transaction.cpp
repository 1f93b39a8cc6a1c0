#include "launcher/steps/transaction.hpp"

#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "base/text.hpp"
#include "launcher/steps/sharing.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// One journal's way back.
class Undoing {
 public:
  Undoing(Host& host, Journal& journal, const std::set<std::string>& stuck)
      : host_(host), journal_(journal) {
    for (const std::string& object : stuck) {
      left_[object] = ExitCode::stuck;
    }
  }

  Undone run() {
    for (std::size_t i = journal_.entries().size(); i-- > 0;) {
      const Journal::Entry& entry = journal_.entries()[i];
      if (!entry.settled && (!qemu_may_live_ || entry.step->is_free_of_qemu())) {
        undo(i);
      }
    }
    if (!undone_.again) {
      remove_journal();
    }
    return std::move(undone_);
  }

  Undone run_for_restart() {
    for (std::size_t i = journal_.entries().size(); i-- > 0;) {
      const Journal::Entry& entry = journal_.entries()[i];
      if (!entry.settled && entry.step->is_per_qemu()) {
        undo(i);
      }
    }
    return std::move(undone_);
  }

 private:
  void undo(std::size_t index) {
    const Journal::Entry entry = journal_.entries()[index];
    for (const std::string& object : entry.step->objects()) {
      if (const auto left = left_.find(object); left != left_.end()) {
        leave(entry.step,
              left->second == ExitCode::stuck ? "the kernel still holds on to " + object
                                              : "waits for the above",
              left->second);
        return;
      }
    }
    try {
      undone_.restored.push_back(entry.step->describe() + ": " + restore(entry));
      settle(index);
    } catch (const ChangedMeanwhile& changed) {
      // Named once; it is not ours any more.
      undone_.leftovers.push_back("changed by somebody else meanwhile, and left: " +
                                  std::string(changed.what()));
      undone_.code = worse(undone_.code, ExitCode::host_not_restored);
      settle(index);
    } catch (const Lost& lost) {
      undone_.leftovers.push_back(entry.step->describe() + ": " + lost.what());
      undone_.code = worse(undone_.code, ExitCode::host_not_restored);
      settle(index);
    } catch (const Tainted& tainted) {
      leave(entry.step, tainted.what(), ExitCode::needs_power_cycle);
    } catch (const Stuck& error) {
      leave(entry.step, error.what(), ExitCode::stuck);
    } catch (const std::exception& error) {
      leave(entry.step, error.what(), ExitCode::host_not_restored);
    }
  }

  /// Says how.
  std::string restore(const Journal::Entry& entry) {
    const Step& step = entry.step;
    const JointChange* joint = step->joint();
    std::optional<Sharing> sharing;
    if (joint != nullptr || step->shared()) {
      sharing.emplace(journal_);
    }
    if (joint != nullptr) {
      joint->undo_beside(host_, entry.found, sharing->found_by_others(step));
      return step->describe_undo();
    }
    if (sharing) {
      const std::vector<Sharing::Other> others = sharing->others(step);
      if (!others.empty()) {
        return "left for the VM " + base::printable(others.front().vm);
      }
    }
    step->undo(host_, entry.found);
    return step->describe_undo();
  }

  /// A disk that takes no more must not stop the way back: what is not settled is undone once more,
  /// which changes nothing.
  void settle(std::size_t index) {
    try {
      journal_.settle(index);
    } catch (const std::system_error&) {
    }
  }

  void remove_journal() {
    try {
      journal_.remove();
    } catch (const std::system_error& error) {
      undone_.leftovers.emplace_back(error.what());
      undone_.code = worse(undone_.code, ExitCode::host_not_restored);
    }
  }

  void leave(const Step& step, const std::string& why, ExitCode code) {
    undone_.leftovers.push_back(step->describe() + ": " + why);
    for (const std::string& object : step->objects()) {
      left_[object] = code;
    }
    undone_.code = worse(undone_.code, code);
    undone_.again = true;
    qemu_may_live_ = qemu_may_live_ || step->ends_qemu();
  }

  Host& host_;
  Journal& journal_;
  Undone undone_;
  std::map<std::string, ExitCode> left_;  ///< objects about which nothing more is tried
  bool qemu_may_live_ = false;
};

}  // namespace

void apply(const Step& step, Host& host, const Context& context, Journal& journal) {
  std::optional<Sharing> sharing;
  std::optional<Json> before;
  if (const JointChange* joint = step->joint()) {
    sharing.emplace(journal);
    before = joint->capture_beside(host, context, sharing->found_by_others(step));
  } else if (step->shared()) {
    sharing.emplace(journal);
    before = sharing->found_before(step);
  }
  const Json found = before ? *before : step->capture(host, context);
  journal.begin(step, found);
  const std::size_t entry = journal.entries().size() - 1;
  step->apply(host, context, found, [&](const Json& more) { journal.note(entry, more); });
}

void after_start(Host& host, Journal& journal, const Tell& tell) {
  for (std::size_t i = 0; i < journal.entries().size(); ++i) {
    const Journal::Entry entry = journal.entries()[i];
    if (entry.settled) {
      continue;
    }
    const Note note = [&](const Json& more) { journal.note(i, more); };
    entry.step->after_start(host, entry.found, note, tell);
  }
}

Undone undo_all(Host& host, Journal& journal, const std::set<std::string>& stuck) {
  return Undoing(host, journal, stuck).run();
}

Undone undo_for_restart(Host& host, Journal& journal) {
  return Undoing(host, journal, {}).run_for_restart();
}

Undone recover(Host& host, Journal& journal) {
  if (journal.of_this_boot()) {
    return undo_all(host, journal);
  }
  journal.remove();
  return {};
}

}  // namespace vmlaunch::launcher::steps
