#pragma once

#include <systemd/sd-bus.h>

#include <memory>
#include <string>

namespace vmlaunch::launcher::systemd {

using Bus = std::unique_ptr<sd_bus, decltype(&sd_bus_flush_close_unref)>;
using Message = std::unique_ptr<sd_bus_message, decltype(&sd_bus_message_unref)>;

constexpr const char* kService = "org.freedesktop.systemd1";
constexpr const char* kManagerPath = "/org/freedesktop/systemd1";
constexpr const char* kManager = "org.freedesktop.systemd1.Manager";

/// libsystemd returns negative error numbers. Throws std::system_error; `action` says what was
/// wanted.
void require(int result, const std::string& action);

/// The system's bus, each of whose calls has a deadline of seconds. To greet a bus that is stuck
/// takes up to 90 s.
[[nodiscard]] Bus open_bus();

}  // namespace vmlaunch::launcher::systemd
