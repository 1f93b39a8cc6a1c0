#pragma once

#include <chrono>
#include <string>

#include <boost/asio/awaitable.hpp>

#include "qmp/client.hpp"

namespace vmlaunch::qmp {

// The client must live until these calls have ended.

/// What a command returned, and the event that completed it.
struct Completion {
  Json value;
  Event event;
};

/// Executes a command whose success is only the beginning (device_del, system_powerdown), and waits
/// for the event that completes it; right also when that comes before the reply. `deadline` is for
/// both. Throws as Client::execute; Interrupted too when the connection ends before the event.
[[nodiscard]] boost::asio::awaitable<Completion> execute_and_wait(
    Client& client,
    std::string command,
    Json arguments,
    EventFilter completed_by,
    std::chrono::milliseconds deadline);

/// A job ended without success.
class JobError : public Error {
 public:
  using Error::Error;
};

/// Starts the job `id` by a command whose arguments name it, waits until it has concluded, and
/// dismisses it; right also when it has ended before its command returns. `deadline` is for all of
/// it: a job that has not ended by then goes on. Throws as Client::execute, and JobError with
/// QEMU's words.
[[nodiscard]] boost::asio::awaitable<void> run_job(Client& client,
                                                   std::string command,
                                                   Json arguments,
                                                   std::string id,
                                                   std::chrono::milliseconds deadline);

}  // namespace vmlaunch::qmp
