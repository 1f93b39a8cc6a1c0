#pragma once

#include "launcher/identity.hpp"

namespace vmlaunch::launcher::run {

/// Whether root has systemd here to keep the guardian.
[[nodiscard]] bool can_start_unit(const Identity& identity);

/// Whether that is going to succeed, as far as can be told beforehand. Only root can tell.
[[nodiscard]] bool will_start_unit(const Identity& identity);

/// Starts the guardian as a transient unit of systemd with `control` as its standard input. Nothing
/// of ours can take it along then, and when it dies, however, systemd runs `recover` at once.
/// Returns as soon as systemd has taken it. Throws std::system_error.
void start_guardian_unit(const Identity& identity, int control);

}  // namespace vmlaunch::launcher::run
