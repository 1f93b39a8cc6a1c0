#include "qmp/ending.hpp"

#include "qmp/values.hpp"

namespace vmlaunch::qmp {

namespace {

using Kind = Verdict::Kind;

Verdict judge_shutdown(const Shutdown& shutdown) {
  if (shutdown.reason == "guest-shutdown") {
    return {Kind::orderly, "the guest shut down"};
  }
  if (shutdown.reason == "host-qmp-quit") {
    return {Kind::orderly, "QEMU was ended as asked"};
  }
  if (shutdown.reason == "host-signal") {
    return {Kind::orderly, "QEMU was ended by a signal from outside"};
  }
  if (shutdown.reason == "host-error") {
    return {Kind::failed, "QEMU ended because of an error of its own"};
  }
  return {Kind::orderly, "QEMU ended (" + shutdown.reason + ")"};
}

/// One that hung says nothing of why it was ended; one that ended by itself does.
Verdict judge_start(const Ending& ending) {
  const HandshakeError& failure = *ending.handshake_failure;
  const bool by_itself = failure.cause() == HandshakeError::Cause::closed;
  const std::string status = ending.status ? " (" + base::to_string(*ending.status) + ")" : "";
  return {Kind::not_started,
          "QEMU did not start" + status + ": " +
              (by_itself && !ending.errors.empty() ? ending.errors : failure.what())};
}

/// What its last words say; `silent` if there were none.
Verdict judge_words(const Ending& ending, Verdict silent) {
  if (ending.shutdown) {
    return judge_shutdown(*ending.shutdown);
  }
  if (ending.watchdog_poweroff) {
    return {Kind::orderly, "the guest's watchdog powered it off"};
  }
  return silent;
}

}  // namespace

void Ending::note(const Event& event) {
  if (event.name == "SHUTDOWN" && !shutdown) {
    shutdown = Shutdown{flag_of(event.data, "guest"), text_of(event.data, "reason")};
  } else if (event.name == "GUEST_PANICKED") {
    panicked = panicked || text_of(event.data, "action") != "run";
  } else if (event.name == "WATCHDOG") {
    watchdog_poweroff = text_of(event.data, "action") == "poweroff";
  } else if (event.name == "RESUME") {
    // It goes on: after the guest's SHUTDOWN with -no-shutdown, or a panic that paused it. A
    // command that was under way when QEMU was told to end may still resume it.
    if (shutdown && shutdown->by_guest) {
      shutdown.reset();
    }
    panicked = false;
  }
}

Verdict judge(const Ending& ending) {
  // A connection that this side has given up says nothing of QEMU.
  const bool gone = ending.close && (ending.close->kind == CloseReason::Kind::eof ||
                                     ending.close->kind == CloseReason::Kind::reset);
  if (ending.handshake_failure && (ending.status || gone)) {
    return judge_start(ending);
  }
  if (ending.handshake_failure) {
    return {Kind::unknown,
            std::string("QEMU does not answer: ") + ending.handshake_failure->what()};
  }
  if (!ending.status && !gone) {
    return {Kind::running, "QEMU has not ended"};
  }
  if (ending.panicked) {
    return {Kind::guest_panicked, "the guest panicked"};
  }
  if (!ending.status) {
    return judge_words(
        ending, {Kind::unknown, "QEMU is gone without a word of its end: " + ending.close->detail});
  }
  if (ending.status->signal != 0) {
    return {Kind::crashed, "QEMU crashed: " + base::to_string(*ending.status)};
  }
  if (ending.status->code != 0) {
    return {Kind::failed, "QEMU failed: " + base::to_string(*ending.status)};
  }
  return judge_words(ending, {Kind::failed, "QEMU ended without a word of its end"});
}

}  // namespace vmlaunch::qmp
