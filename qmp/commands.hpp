#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>

#include "base/unique_fd.hpp"
#include "qmp/client.hpp"

namespace vmlaunch::qmp {

// Commands with arguments or results of a type; those without are executed by their names. The
// client must live until these calls have ended. All throw as Client::execute, and ProtocolError
// for a result that is not of the type that QEMU promises.

struct RunState {
  bool running = false;
  std::string name;  ///< "running", "paused", "prelaunch", …: not a closed set
};

[[nodiscard]] boost::asio::awaitable<RunState> query_status(Client& client,
                                                            std::chrono::milliseconds deadline);

/// A virtual CPU and the thread of QEMU's that is it.
struct Vcpu {
  std::int64_t index = 0;
  pid_t thread = 0;
};

[[nodiscard]] boost::asio::awaitable<std::vector<Vcpu>> query_cpus(
    Client& client, std::chrono::milliseconds deadline);

/// Adds an object of `type`. Throws std::invalid_argument, before anything is sent, for a number
/// among the properties that is negative, beyond 2^63 - 1 or a fraction: QEMU takes -1 for a size,
/// as 2^64 - 1, and aborts.
[[nodiscard]] boost::asio::awaitable<void> add_object(Client& client,
                                                      std::string type,
                                                      std::string id,
                                                      Json properties,
                                                      std::chrono::milliseconds deadline);

/// Gives QEMU a copy of `fd` under a name, for a later command on this monitor. One that has the
/// name already is closed; the name survives this connection.
[[nodiscard]] boost::asio::awaitable<void> getfd(Client& client,
                                                 std::string name,
                                                 base::UniqueFd fd,
                                                 std::chrono::milliseconds deadline);

/// Gives QEMU a copy of `fd` in a new set, for the file name "/dev/fdset/SET"; returns the set.
/// QEMU 7.2 closes a set that nothing uses when its last monitor is left while the guest runs.
[[nodiscard]] boost::asio::awaitable<std::int64_t> add_fd(Client& client,
                                                          base::UniqueFd fd,
                                                          std::chrono::milliseconds deadline);

/// Takes a set back. QEMU 7.2 closes its files only while the guest runs: those of a set that was
/// taken back before stay, until it is taken back again or the last monitor is left.
[[nodiscard]] boost::asio::awaitable<void> remove_fd(Client& client,
                                                     std::int64_t set,
                                                     std::chrono::milliseconds deadline);

}  // namespace vmlaunch::qmp
