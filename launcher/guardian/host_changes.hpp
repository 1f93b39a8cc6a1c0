#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "launcher/plan/plan.hpp"
#include "launcher/steps/lock.hpp"
#include "launcher/steps/reservations.hpp"
#include "launcher/steps/transaction.hpp"

namespace vmlaunch::launcher::guardian {

/// What one run does to the host: its lock, its journal, and the way back.
class HostChanges {
 public:
  /// What `begin` would come to: throws as it would, and changes nothing.
  [[nodiscard]] std::vector<std::string> look(const std::string& vm) const;

  /// Takes the VM's lock and puts back what dead runs have left, of this VM and of others; tells
  /// what that was. Throws Failure: held, or when something of this VM's could not be put back.
  /// `force_tainted`: what is left of this VM's because a device did not come back stays, and is
  /// undone at the end of this run.
  [[nodiscard]] std::vector<std::string> begin(const std::string& vm, bool force_tainted = false);

  /// Keeps what the steps are about from other VMs until the run's end. Throws Failure (held).
  void reserve(const std::vector<steps::Step>& steps);
  /// The same without taking anything.
  void require_unreserved(const std::vector<steps::Step>& steps) const;

  /// Keeps what is named so from other VMs for as long as the lock lives; nothing when one has it.
  [[nodiscard]] std::optional<steps::Lock> claim(const std::string& name) const;

  /// Throws Failure with every reason why a step could not be applied.
  void check(const std::vector<steps::Step>& steps) const;

  /// The first step begins the journal. Throws Failure.
  void apply(const steps::Step& step, const steps::Context& context);

  /// QEMU has started, and the guest has not run yet. Throws Failure.
  void after_start(const steps::Tell& tell);

  /// QEMU has ended, and another is to start: what is each one's own is undone and applied again,
  /// of `all`. Throws Failure.
  void restart(const std::vector<steps::Step>& all, const steps::Context& context);

  /// The kernel holds on to what that step is about.
  void note_stuck(const steps::Step& step);

  /// Once QEMU has ended, or is stuck: then what it has is left. Removes the journal when nothing
  /// is left to do.
  [[nodiscard]] steps::Undone undo();

  /// What was applied stays: the journal is removed.
  void keep();

  [[nodiscard]] const steps::Host& host() const { return host_; }
  [[nodiscard]] steps::Host& host() { return host_; }

 private:
  void change(const steps::Step& step, const steps::Context& context);

  steps::Host host_;
  std::string vm_;
  std::optional<steps::Lock> lock_;
  std::optional<steps::Reservations> reservations_;  ///< from begin on
  std::optional<steps::Journal> journal_;
  std::set<std::string> stuck_;  ///< objects that the kernel holds on to
};

}  // namespace vmlaunch::launcher::guardian
