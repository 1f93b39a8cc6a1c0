#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/process.hpp"
#include "base/unique_fd.hpp"
#include "sandbox/call_watch.hpp"
#include "sandbox/private_root.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::sandbox {

/// A descriptor of ours that the child gets under a number of its own.
struct PassedFd {
  int ours = -1;
  int theirs = -1;
};

/// Everything that makes the child what it is. Whatever is not named here it does not get.
struct ChildSpec {
  int program = -1;  ///< opened with O_PATH by whoever had the right; never a script
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  ///< NAME=value
  std::vector<PassedFd> fds;             ///< 0, 1 and 2 are /dev/null unless listed
  Credentials credentials;
  std::optional<RootSpec> root = {};  ///< nothing: all of the host's files
  std::optional<int> dev = {};  ///< without a root: PrivateDev::tree() in place of the host's /dev
  std::optional<int> cgroup = {};             ///< an open cgroup2 folder in which it is born
  std::optional<std::uint64_t> memlock = {};  ///< what it may lock in memory, in bytes
  std::optional<Filter> calls = {};  ///< which system calls it may make; nothing: all of them
};

/// What a child does between clone and exec, in this order.
enum class Stage : int {
  word,
  session,
  signals,
  root,
  descriptors,
  limits,
  privileges,
  parent_death,
  calls,
  exec,
};

[[nodiscard]] const char* describe(Stage stage);

/// The child could not be set up; nothing of it is left.
class ChildSetupError : public std::runtime_error {
 public:
  /// `text` is what went wrong in the stage; empty: no more is known than `error`.
  ChildSetupError(Stage stage, int error, const std::string& text);

  [[nodiscard]] Stage stage() const { return stage_; }
  [[nodiscard]] int error() const { return error_; }

 private:
  Stage stage_;
  int error_;
};

/// A child that has exec'd.
struct Spawned {
  base::Child child;
  std::optional<CallWatch> watch;    ///< with a filter: to be served from now on
  std::vector<RefusedCall> refused;  ///< what it served before
};

/// Starts the child and returns once it has exec'd. `born` is called with its number while it still
/// waits: it goes on only when that has returned. It dies with this process (SIGKILL). When its
/// uid is another one the caller must keep CAP_KILL to its end: the kernel asks whether the dying
/// parent might signal the child. The caller must have one thread. Throws ChildSetupError.
[[nodiscard]] Spawned spawn(const ChildSpec& spec, const std::function<void(pid_t)>& born = {});

}  // namespace vmlaunch::sandbox
