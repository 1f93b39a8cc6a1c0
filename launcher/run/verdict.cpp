#include "launcher/run/verdict.hpp"

namespace vmlaunch::launcher::run {

namespace {

Verdict judge_shutdown(const Shutdown& shutdown) {
  if (shutdown.reason == "guest-shutdown") {
    return {ExitCode::ended, "the guest shut down"};
  }
  if (shutdown.reason == "host-qmp-quit") {
    return {ExitCode::ended, "QEMU was ended as asked"};
  }
  if (shutdown.reason == "host-signal") {
    return {ExitCode::ended, "QEMU was ended by a signal from outside"};
  }
  if (shutdown.reason == "host-error") {
    return {ExitCode::qemu_crashed, "QEMU ended because of an error of its own"};
  }
  return {ExitCode::ended, "QEMU ended (" + shutdown.reason + ")"};
}

}  // namespace

Verdict judge(const Ending& ending) {
  const bool by_itself = ending.shutdown && ending.shutdown->reason == "guest-shutdown" &&
                         ending.status == base::ExitStatus{};
  if (ending.had_to_kill && !by_itself) {
    return {ExitCode::had_to_kill, "the guest did not shut down in time and was ended"};
  }
  if (ending.panicked) {
    return {ExitCode::guest_panicked, "the guest panicked"};
  }
  if (ending.status.signal != 0 && ending.hurried) {
    return {ExitCode::ended, "QEMU was killed as asked"};
  }
  if (ending.status.signal != 0) {
    return {ExitCode::qemu_crashed, "QEMU crashed: " + base::to_string(ending.status)};
  }
  if (ending.status.code != 0) {
    return {ExitCode::qemu_crashed, "QEMU failed: " + base::to_string(ending.status)};
  }
  if (ending.shutdown) {
    return judge_shutdown(*ending.shutdown);
  }
  if (ending.watchdog_poweroff) {
    return {ExitCode::ended, "the guest's watchdog powered it off"};
  }
  return {ExitCode::qemu_crashed, "QEMU ended without a word of its end"};
}

}  // namespace vmlaunch::launcher::run
