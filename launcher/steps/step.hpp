#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launcher/steps/context.hpp"
#include "launcher/steps/host.hpp"

namespace vmlaunch::launcher::steps {

class JointChange;
class Step;

/// A reversible change of the host with its parameters. Each kind is a class in a file of its own,
/// a function in steps.hpp that makes one, and a line in step.cpp's list.
class Change {
 public:
  virtual ~Change() = default;

  [[nodiscard]] virtual const char* kind() const = 0;

  /// Those that a guardian needs to apply or undo it, beside root's uid.
  [[nodiscard]] virtual std::vector<int> capabilities() const { return {}; }

  /// Another of its kind, with the parameters that are there as JSON. Throws FormError.
  [[nodiscard]] virtual Step read(Fields& fields) const = 0;
  /// All its parameters: two of a kind that write the same are equal.
  virtual void write(Json& json) const = 0;

  /// Whether a plan for `vm` may have it: the guardian asks, since the supervisor sends plans.
  [[nodiscard]] virtual bool fits_plan_of(const std::string& /*vm*/) const { return true; }

  /// One line each, the same in plan, log and error.
  [[nodiscard]] virtual std::string describe() const = 0;
  [[nodiscard]] virtual std::string describe_undo() const = 0;

  /// What it changes; once a call about it is stuck, nothing else touches it.
  [[nodiscard]] virtual std::string object() const = 0;
  /// The same, for one that changes several.
  [[nodiscard]] virtual std::vector<std::string> objects() const { return {object()}; }

  /// What no two VMs may have at once, as names of locks.
  [[nodiscard]] virtual std::vector<std::string> reserves() const { return {}; }

  /// What only one VM may do at a time, from this step until its QEMU has started, as the name of a
  /// lock that the others wait for; "" for nothing of that kind.
  [[nodiscard]] virtual std::string turn() const { return ""; }

  /// Several VMs may have made it at once, all with the same parameters: the first applies it, with
  /// what it found, and the last undoes it.
  [[nodiscard]] virtual bool shared() const { return false; }

  /// Itself, if several VMs may have made it at once, each with parameters of its own.
  [[nodiscard]] virtual const JointChange* joint() const { return nullptr; }

  /// Can it work? Asked for all steps before any is applied. Throws Failure.
  virtual void check(const Host& /*host*/) const {}

  /// What undo needs to know, written to the journal before apply.
  [[nodiscard]] virtual Json capture(const Host& host, const Context& context) const = 0;

  /// Throws Failure, std::system_error or Stuck; may be cut off anywhere.
  virtual void apply(Host& host,
                     const Context& context,
                     const Json& found,
                     const Note& note) const = 0;

  /// QEMU has all its memory and devices, and the guest has not run yet: what was needed only until
  /// then goes, or is told to stay. Throws as apply does.
  virtual void after_start(Host& /*host*/,
                           const Json& /*found*/,
                           const Note& /*note*/,
                           const Tell& /*tell*/) const {}

  /// From what was captured alone, in any process, any number of times, after half an apply too.
  /// Throws ChangedMeanwhile for a value that is neither what we wrote nor what we found, Lost for
  /// what no other try would bring back, Tainted for devices that the host is not to have.
  virtual void undo(Host& host, const Json& found) const = 0;

  /// Made anew for each QEMU of a run.
  [[nodiscard]] virtual bool is_per_qemu() const { return false; }

  /// Its undo ends QEMU.
  [[nodiscard]] virtual bool ends_qemu() const { return false; }

  /// What QEMU has is not touched while it may live: an unbind under a living QEMU sleeps in the
  /// kernel for ever.
  [[nodiscard]] virtual bool is_free_of_qemu() const { return false; }
};

/// One that several VMs make of the same object. Each is told what the others found that have made
/// one and not undone it, and nobody else makes or undoes one meanwhile.
class JointChange : public Change {
 public:
  const JointChange* joint() const final { return this; }

  [[nodiscard]] virtual Json capture_beside(const Host& host,
                                            const Context& context,
                                            const std::vector<Json>& others) const = 0;
  virtual void undo_beside(Host& host,
                           const Json& found,
                           const std::vector<Json>& others) const = 0;

  Json capture(const Host& host, const Context& context) const final {
    return capture_beside(host, context, {});
  }
  void undo(Host& host, const Json& found) const final { undo_beside(host, found, {}); }
};

/// A change of the host as a value: copied, and compared by kind and parameters.
class Step {
 public:
  explicit Step(std::shared_ptr<const Change> change) : change_(std::move(change)) {}

  const Change* operator->() const { return change_.get(); }

  bool operator==(const Step& other) const;

 private:
  std::shared_ptr<const Change> change_;
};

[[nodiscard]] Json to_json(const Step& step);

/// Throws FormError for anything that to_json did not write.
[[nodiscard]] Step read_step(const Json& json);

}  // namespace vmlaunch::launcher::steps
