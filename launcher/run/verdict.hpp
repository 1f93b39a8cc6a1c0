#pragma once

#include <string>

#include "launcher/exit_code.hpp"
#include "qmp/ending.hpp"

namespace vmlaunch::launcher::run {

/// What a run means for the person who started it.
struct Verdict {
  ExitCode code = ExitCode::failed;
  std::string text;  ///< one sentence without a full stop
};

/// `had_to_kill`: a deadline of the stop ladder passed; `hurried`: somebody asked to end it at
/// once.
[[nodiscard]] Verdict judge(const qmp::Ending& ending, bool had_to_kill, bool hurried);

}  // namespace vmlaunch::launcher::run
