#pragma once

#include "launcher/exit_code.hpp"
#include "launcher/run/console.hpp"
#include "launcher/run/guardian_link.hpp"
#include "launcher/run/preparation.hpp"
#include "launcher/run/terminal.hpp"

namespace vmlaunch::launcher::run {

/// Everything that a run starts from.
struct RunInput {
  OpenConfig config;
  Prepared prepared;
  OpenFiles files;
  GuardianProcess guardian;
};

/// Keeps SIGINT, SIGTERM and SIGHUP waiting until run_vm takes them: from the first file that is
/// made on, a stop is in order.
void hold_stop_signals();

/// A VM from the sealing of its plan to its end. Returns when QEMU is gone, the host restored and
/// the guardian reaped, or when one of them does not come to that in time.
[[nodiscard]] ExitCode run_vm(RunInput input, Terminal& terminal, Console& console);

}  // namespace vmlaunch::launcher::run
