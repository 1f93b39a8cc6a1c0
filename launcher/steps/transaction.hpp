#pragma once

#include <set>
#include <string>
#include <vector>

#include "launcher/steps/journal.hpp"

namespace vmlaunch::launcher::steps {

/// Applies one step: looks, writes down what it found, then changes. Throws what the step throws;
/// its record then stands, and undo_all puts back what was done of it.
void apply(const Step& step, Host& host, const Context& context, Journal& journal);

/// For all steps of a run, in their order, once QEMU has started. Throws what they throw.
void after_start(Host& host, Journal& journal, const Tell& tell);

/// What became of an undo.
struct Undone {
  ExitCode code = ExitCode::ended;     ///< host_not_restored or stuck if anything is left
  std::vector<std::string> restored;   ///< a line for each step that was undone
  std::vector<std::string> leftovers;  ///< a line for each that was not, and why
  bool again = false;                  ///< another try may undo what is left: the journal stays
};

/// Undoes everything that is written in the journal and not settled, last things first, and goes on
/// whatever fails; but while QEMU may live nothing else is touched, and about an object whose undo
/// failed or is stuck nothing more is tried (`stuck` names those that are known): another try then
/// finds the same order. Removes the journal when
/// nothing is left that another try could undo.
[[nodiscard]] Undone undo_all(Host& host,
                              Journal& journal,
                              const std::set<std::string>& stuck = {});

/// The same for what is made anew for each QEMU of a run, once one has ended; the journal stays.
[[nodiscard]] Undone undo_for_restart(Host& host, Journal& journal);

/// The same for a journal that an earlier run left. One of an earlier boot is dropped.
[[nodiscard]] Undone recover(Host& host, Journal& journal);

}  // namespace vmlaunch::launcher::steps
