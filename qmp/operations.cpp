#include "qmp/operations.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "base/text.hpp"
#include "qmp/deadlines.hpp"
#include "qmp/values.hpp"

namespace vmlaunch::qmp {

namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// For the commands about a job that has ended: what is left for all of it, and some time at least.
milliseconds left_until(steady_clock::time_point deadline) {
  constexpr milliseconds kLeast{5000};
  const auto left = std::chrono::duration_cast<milliseconds>(deadline - steady_clock::now());
  return std::max(kLeast, left);
}

[[noreturn]] void throw_interrupted(const std::string& what, const CloseReason& reason) {
  throw Interrupted(
      what + " was interrupted, its outcome is unknown: " + reason.detail, reason, true);
}

bool speaks_of(const Event& event, const std::string& job) {
  return text_of(event.data, "id") == job || text_of(event.data, "device") == job;
}

bool is_over(const std::string& status) {
  return status == "concluded" || status == "null";
}

/// One that can pause and go on any number of times tells of it each time.
bool tells_of_end(const Event& event) {
  return event.name != "JOB_STATUS_CHANGE" || is_over(text_of(event.data, "status"));
}

/// How a job ended, as its events and query-jobs tell.
struct JobEnd {
  bool ended = false;
  std::string error;
};

void note(JobEnd& end, const Event& event) {
  end.ended = end.ended || is_over(text_of(event.data, "status"));
  if (event.name == "BLOCK_JOB_CANCELLED") {
    end.error = "it was cancelled";
  } else if (event.data.contains("error")) {
    end.error = text_of(event.data, "error");
  }
}

asio::awaitable<void> dismiss_job(Client& client,
                                  std::string id,
                                  steady_clock::time_point deadline) {
  const Json which = {{"id", id}};
  try {
    co_await client.execute("job-dismiss", which, left_until(deadline));
  } catch (const CommandError&) {
    // Somebody else has done so meanwhile.
  }
}

/// Looks for the job and dismisses it once it has concluded; one that is gone was dismissed by
/// itself.
asio::awaitable<void> look_at_job(Client& client,
                                  std::string id,
                                  steady_clock::time_point deadline,
                                  JobEnd& end) {
  const Json nothing = Json::object();
  const Json jobs = co_await client.execute("query-jobs", nothing, left_until(deadline));
  if (!jobs.is_array()) {
    throw ProtocolError("QEMU's answer to query-jobs is no list");
  }
  const Json* found = nullptr;
  for (const Json& job : jobs) {
    found = text_of(job, "id") == id ? &job : found;
  }
  if (found == nullptr) {
    end.ended = true;
    co_return;
  }
  if (text_of(*found, "status") == "concluded") {
    end.ended = true;
    end.error = found->contains("error") ? text_of(*found, "error") : end.error;
    co_await dismiss_job(client, id, deadline);
  }
}

/// The next event after a command that QEMU has executed.
asio::awaitable<Subscription::Item> next_after(Subscription& events,
                                               std::string what,
                                               steady_clock::time_point deadline) {
  try {
    Subscription::Item item = co_await events.next(deadline);
    co_return item;
  } catch (const Timeout&) {
    throw Timeout(
        what + " was begun, but no event of its end came in time", Timeout::Cause::unknown, true);
  }
}

asio::awaitable<void> await_job(Client& client,
                                Subscription& events,
                                std::string id,
                                steady_clock::time_point deadline) {
  const std::string what = "Job " + base::printable(id);
  JobEnd end;
  bool look = false;
  while (!end.ended) {
    const Subscription::Item item = co_await next_after(events, what, deadline);
    if (const auto* reason = std::get_if<CloseReason>(&item)) {
      throw_interrupted(what, *reason);
    }
    if (const auto* event = std::get_if<Event>(&item)) {
      note(end, *event);
    } else {
      look = true;  // its end may be among what was lost
    }
    if (look || end.ended) {
      co_await look_at_job(client, id, deadline, end);
      look = false;
    }
  }
  if (!end.error.empty()) {
    throw JobError(what + " failed: " + end.error);
  }
}

asio::awaitable<Completion> wait_for_completion(Client& client,
                                                Subscription events,
                                                std::string command,
                                                Json arguments,
                                                milliseconds deadline) {
  const std::string what = "Command " + base::printable(command);
  const auto until = steady_clock::now() + clamp_deadline(deadline);
  Completion completion;
  Json value = co_await client.execute(command, arguments, deadline);
  completion.value = std::move(value);
  for (;;) {
    Subscription::Item item = co_await next_after(events, what, until);
    if (auto* event = std::get_if<Event>(&item)) {
      completion.event = std::move(*event);
      co_return completion;
    }
    if (const auto* reason = std::get_if<CloseReason>(&item)) {
      throw_interrupted(what, *reason);
    }
  }
}

asio::awaitable<void> start_job(Client& client,
                                Subscription events,
                                std::string command,
                                Json arguments,
                                std::string id,
                                milliseconds deadline) {
  const auto until = steady_clock::now() + clamp_deadline(deadline);
  co_await client.execute(command, arguments, deadline);
  co_await await_job(client, events, id, until);
}

}  // namespace

asio::awaitable<Completion> execute_and_wait(Client& client,
                                             std::string command,
                                             Json arguments,
                                             EventFilter completed_by,
                                             milliseconds deadline) {
  return wait_for_completion(client,
                             client.subscribe(std::move(completed_by), 1),
                             std::move(command),
                             std::move(arguments),
                             deadline);
}

asio::awaitable<void> run_job(
    Client& client, std::string command, Json arguments, std::string id, milliseconds deadline) {
  // Until it is created, events can be those of an earlier one that had its id.
  const auto predicate = [id, created = false](const Event& event) mutable {
    if (speaks_of(event, id)) {
      created = created || text_of(event.data, "status") == "created";
      return created && tells_of_end(event);
    }
    return false;
  };
  const EventFilter of_job{{"JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED"},
                           predicate};
  return start_job(client,
                   client.subscribe(of_job),
                   std::move(command),
                   std::move(arguments),
                   std::move(id),
                   deadline);
}

}  // namespace vmlaunch::qmp
