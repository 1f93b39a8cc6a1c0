#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "sandbox/filter.hpp"

namespace vmlaunch::sandbox {

/// A call that the policy does not let the program make.
struct RefusedCall {
  enum class Outcome {
    refused,  ///< an error, at any time
    late,     ///< an error, since the start is over
    newer,    ///< an error: the policy does not know the call
    ended,    ///< the program was ended
    logged,   ///< the call was made all the same
  };

  Call call;
  Outcome outcome = Outcome::refused;
};

/// Answers for the calls that a Filter asks about. The thread that makes one waits meanwhile, so
/// the listener must be served whenever it is readable. When this goes, all of them fail (ENOSYS).
class CallWatch {
 public:
  /// Of the process `pid`, which is ended by `pidfd`.
  CallWatch(base::UniqueFd listener, Filter filter, pid_t pid, base::UniqueFd pidfd);

  /// To be waited on; -1 once it is known that nobody is left who could ask: before Linux 6.11 that
  /// may be only when the program has been reaped.
  [[nodiscard]] int fd() const { return listener_ ? listener_.get() : -1; }

  /// Answers what is there, if anything is. What is to be told of is told once for each kind of
  /// call. Throws std::system_error.
  [[nodiscard]] std::optional<RefusedCall> serve();

  /// From then on "start" is no longer allowed; until this is called it is.
  void end_start(std::chrono::steady_clock::time_point when) { start_ends_ = when; }

 private:
  struct Asked {
    std::uint64_t id = 0;
    pid_t thread = -1;
    Call call;
  };

  std::optional<Asked> receive();
  bool permits(const Asked& asked, const CallRule* rule) const;
  std::optional<RefusedCall> refuse(const Asked& asked, const CallRule* rule);
  bool respond(const Asked& asked, int error);
  std::optional<RefusedCall> tell(const Call& call, RefusedCall::Outcome outcome);

  base::UniqueFd listener_;
  Filter filter_;
  pid_t pid_;
  base::UniqueFd pidfd_;
  std::chrono::steady_clock::time_point start_ends_ = std::chrono::steady_clock::time_point::max();
  bool executed_ = false;
  bool ended_ = false;
  std::vector<Call> told_;
};

}  // namespace vmlaunch::sandbox
