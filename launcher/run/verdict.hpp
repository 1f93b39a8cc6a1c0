#pragma once

#include <optional>
#include <string>

#include "base/process.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::run {

/// What QEMU said of its end in a SHUTDOWN event.
struct Shutdown {
  bool by_guest = false;
  std::string reason;
};

/// Everything that was seen of how a running QEMU ended.
struct Ending {
  base::ExitStatus status;
  std::optional<Shutdown> shutdown;  ///< the first one: QEMU may send more than one
  bool panicked = false;
  bool watchdog_poweroff = false;  ///< QEMU then exits without a SHUTDOWN event
  bool had_to_kill = false;        ///< a deadline of the stop ladder passed
  bool hurried = false;            ///< somebody asked to end it at once
};

struct Verdict {
  ExitCode code = ExitCode::failed;
  std::string text;  ///< one sentence without a full stop
};

[[nodiscard]] Verdict judge(const Ending& ending);

}  // namespace vmlaunch::launcher::run
