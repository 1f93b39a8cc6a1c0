#pragma once

#include <optional>
#include <string>

#include "launcher/exit_code.hpp"
#include "launcher/guardian/protocol.hpp"
#include "qmp/ending.hpp"

namespace vmlaunch::launcher::run {

/// What a run means for the person who started it.
struct Verdict {
  ExitCode code = ExitCode::failed;
  std::string text;  ///< one sentence without a full stop
};

/// `had_to_kill`: a deadline of the stop ladder passed; `hurried`: somebody asked to end it at
/// once; `fatal_call`: the system call that QEMU was ended for.
[[nodiscard]] Verdict judge(const qmp::Ending& ending,
                            bool had_to_kill,
                            bool hurried,
                            const std::optional<guardian::CallRefused>& fatal_call = {});

/// How QEMU ended: its own words, or the system call that it was ended for.
[[nodiscard]] std::string describe_end(const qmp::Ending& ending,
                                       const std::optional<guardian::CallRefused>& fatal_call);

/// What QEMU tried, what became of it, and what can be done about that.
[[nodiscard]] std::string describe(const guardian::CallRefused& refused);

}  // namespace vmlaunch::launcher::run
