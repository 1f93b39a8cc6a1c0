#pragma once

#include <optional>
#include <string>

#include "base/process.hpp"
#include "qmp/errors.hpp"
#include "qmp/session.hpp"

namespace vmlaunch::qmp {

/// What QEMU said of its end in a SHUTDOWN event.
struct Shutdown {
  bool by_guest = false;
  std::string reason;  ///< "guest-shutdown", "host-qmp-quit", …: not a closed set
};

/// Everything that was seen of how a QEMU ended. No part of it is enough alone: QEMU may end with
/// exit code 0 and no SHUTDOWN, may send SHUTDOWN and crash, and the connection may be reset by an
/// end in order.
struct Ending {
  std::optional<HandshakeError> handshake_failure;
  std::optional<Shutdown> shutdown;        ///< the first one: QEMU may send more than one
  bool panicked = false;                   ///< and did not go on all the same
  bool watchdog_poweroff = false;          ///< QEMU then exits without a SHUTDOWN event
  std::optional<CloseReason> close;        ///< nothing: the connection stands
  std::optional<base::ExitStatus> status;  ///< nothing: it has not ended, or is another's child
  std::string errors;                      ///< the last lines of its standard error

  /// Takes what an event says of the end; any event may be given.
  void note(const Event& event);
};

struct Verdict {
  enum class Kind {
    running,         ///< nothing says that it has ended
    unknown,         ///< the connection was lost without a word, or never usable; it may run on
    not_started,     ///< it ended, or was ended, before its main loop ran
    orderly,         ///< it shut down: by its guest, a command, a signal or a watchdog
    guest_panicked,  ///< however it ended then
    failed,          ///< an error of its own
    crashed,         ///< a signal ended it
  };

  Kind kind = Kind::unknown;
  std::string text;  ///< one sentence without a full stop
};

[[nodiscard]] Verdict judge(const Ending& ending);

}  // namespace vmlaunch::qmp
