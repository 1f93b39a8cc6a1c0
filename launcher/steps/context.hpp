#pragma once

#include <sys/types.h>

#include <functional>
#include <stdexcept>
#include <string>

#include "base/unique_fd.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/wire.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher::steps {

/// What steps need of the run that they belong to.
struct Context {
  std::string vm;
  sandbox::Credentials qemu;  ///< who QEMU is to be
  /// Starts QEMU; calls what it is given with the child's number before that may go on.
  std::function<void(const std::function<void(pid_t)>& born)> start;
  /// A descriptor that QEMU gets under that number.
  std::function<void(int theirs, base::UniqueFd fd)> give;
  /// Tells what a step waits for, or how far it has come; what is the same is passed on now and
  /// then only, so a step may call it at every look. One that does not for more than two minutes is
  /// taken for stuck. Throws Failure when the run is to end: then the step gives up.
  std::function<void(const std::string& text)> waiting;
};

/// Adds to the record of a step that is being applied what is known only now.
using Note = std::function<void(const Json&)>;

/// Tells those who follow the run.
using Tell = std::function<void(const std::string& text)>;

/// A value that is neither what we wrote nor what we found was changed by somebody else: it is left
/// and named.
class ChangedMeanwhile : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What is lost for good, and was said to be possibly so: it is named, and no other try is made.
class Lost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Devices that did not come back from a guest: they stay where they are until somebody asks for
/// another try.
class Tainted : public Failure {
 public:
  explicit Tainted(const std::string& message) : Failure(ExitCode::needs_power_cycle, message) {}
};

}  // namespace vmlaunch::launcher::steps
