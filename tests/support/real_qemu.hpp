#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/process.hpp"
#include "base/unique_fd.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::tests {

/// How a QEMU is started for its monitor's sake.
struct QemuSetup {
  std::vector<std::string> arguments = {"-machine", "none"};
  std::string path = {};             ///< a socket that it listens on; "": one end of a pair
  std::string monitor_options = {};  ///< further ones of -mon, such as ",pretty=on"
};

/// A QEMU of one test, killed with the object. Nothing has been said to its monitor.
class RealQemu {
 public:
  explicit RealQemu(const QemuSetup& setup = {});
  RealQemu(const RealQemu&) = delete;
  RealQemu& operator=(const RealQemu&) = delete;
  ~RealQemu();

  /// Our end of the pair, once.
  [[nodiscard]] base::UniqueFd take_monitor() { return std::move(monitor_); }

  [[nodiscard]] pid_t pid() const { return child_.pid; }
  [[nodiscard]] int pidfd() const { return child_.pidfd.get(); }
  void signal(int number);

  /// How it ended; nothing if it is still there at the deadline.
  [[nodiscard]] std::optional<base::ExitStatus> wait(Seconds limit = kPatience);

  /// What it has written to its standard error so far, 64 KiB at most.
  [[nodiscard]] std::string errors();

 private:
  base::Child child_;
  base::UniqueFd monitor_;
  base::UniqueFd errors_;
  std::string text_;
  std::optional<base::ExitStatus> status_;
};

}  // namespace vmlaunch::tests
