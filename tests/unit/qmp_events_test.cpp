#include <string>
#include <variant>
#include <vector>

#include "qmp/event_queue.hpp"
#include "qmp/operations.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;
using Item = Subscription::Item;

std::string event_with(const std::string& name, const std::string& data) {
  return R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": ")" + name +
         R"(", "data": )" + data + "}\r\n";
}

/// "STOP", "lost 3", "closed" or "timeout".
std::string next(Scene& scene, Subscription& events) {
  const auto item = scene.finish(scene.start(events.next(Clock::now() + kLong)));
  if (const auto* event = std::get_if<Event>(&item)) {
    return event->name;
  }
  if (const auto* lost = std::get_if<Lost>(&item)) {
    return "lost " + std::to_string(lost->count);
  }
  return "closed";
}

std::string job_event(const std::string& status) {
  return event_with("JOB_STATUS_CHANGE", R"({"status": ")" + status + R"(", "id": "j"})");
}

std::shared_ptr<Outcome<bool>> start_job(Scene& scene) {
  return scene.start(run_job(*scene.client, "blockdev-create", {{"job-id", "j"}}, "j", kLong));
}

TEST_CASE("events: a subscriber gets what it asked for, in order, and then the reason of the close",
          "[qmp]") {
  Scene scene;
  Subscription all = scene.client->subscribe({});
  scene.shake_hands();
  Subscription some = scene.client->subscribe(
      {{"STOP", "RESET"}, [](const Event& event) { return event.data.value("guest", true); }});
  scene.send(event("RESUME") + event("STOP") + event_with("RESET", R"({"guest": false})") +
             event_with("RESET", R"({"guest": true})"));
  for (const char* name : {"RESUME", "STOP", "RESET", "RESET"}) {
    CHECK(next(scene, all) == name);
  }
  CHECK(next(scene, some) == "STOP");
  CHECK(next(scene, some) == "RESET");
  scene.send(event("STOP"));
  scene.peer.reset();
  scene.until_closed();
  CHECK(next(scene, some) == "STOP");
  CHECK(next(scene, some) == "closed");
  CHECK(next(scene, some) == "closed");
  Subscription late = scene.client->subscribe({});
  CHECK(next(scene, late) == "closed");
}

TEST_CASE("events: a full queue counts what it lost, at its place", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  Subscription events = scene.client->subscribe({}, 2);
  for (const char* name : {"A", "B", "C", "D", "E"}) {
    scene.send(event(name));
  }
  scene.until([&] { return scene.events.size() == 5; });
  CHECK(next(scene, events) == "A");
  CHECK(next(scene, events) == "B");
  scene.send(event("F"));
  scene.until([&] { return scene.events.size() == 6; });
  CHECK(next(scene, events) == "lost 3");
  CHECK(next(scene, events) == "F");
}

/// The names of what waits, "lost" with its count.
std::vector<std::string> take_all(EventQueue& queue) {
  std::vector<std::string> names;
  while (!queue.is_empty()) {
    const Subscription::Item item = queue.take();
    const auto* lost = std::get_if<Lost>(&item);
    names.push_back(lost != nullptr ? "lost " + std::to_string(lost->count)
                                    : std::get<Event>(item).name);
  }
  return names;
}

TEST_CASE("events: a queue takes so many bytes, and a longer event only alone", "[qmp]") {
  using Names = std::vector<std::string>;
  constexpr std::size_t kHalf = EventQueue::kByteLimit / 2;
  asio::io_context context;
  EventQueue queue(context.get_executor(), {}, 4);
  for (int again = 0; again < 2; ++again) {
    queue.offer({"A"}, kHalf + 1);
    queue.offer({"too long"}, kHalf);
    queue.offer({"B"}, kHalf - 1);
    queue.offer({"C"}, 1);
    queue.offer({"D"}, 1);
    CHECK(take_all(queue) == Names{"A", "lost 1", "B", "lost 2"});
  }
  queue.offer({"A"}, 2 * EventQueue::kByteLimit);
  queue.offer({"B"}, 1);
  CHECK(take_all(queue) == Names{"A", "lost 1"});
}

TEST_CASE("events: what counts is the length of a message", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  Subscription events = scene.client->subscribe({});
  const std::string data = R"({"x": ")" + std::string(EventQueue::kByteLimit / 2, 'x') + "\"}";
  for (const char* name : {"A", "B"}) {
    const std::string bytes = event_with(name, data);
    for (std::size_t sent = 0; sent < bytes.size(); sent += 64 * 1024) {
      scene.send(std::string_view(bytes).substr(sent, 64 * 1024));
      scene.settle();
    }
  }
  CHECK(next(scene, events) == "A");
  CHECK(next(scene, events) == "lost 1");
}

TEST_CASE("events: a reader waits until its deadline, and survives client and subscription",
          "[qmp]") {
  Scene scene;
  scene.shake_hands();
  Subscription events = scene.client->subscribe({});
  CHECK_THROWS_AS(scene.finish(scene.start(events.next(Clock::now() + kShort))), Timeout);
  auto brief = std::make_optional(scene.client->subscribe({}));
  const auto waiting = scene.start(brief->next());
  scene.settle();
  brief.reset();
  scene.client.reset();
  CHECK(std::holds_alternative<CloseReason>(scene.finish(waiting)));
  CHECK(next(scene, events) == "closed");
}

TEST_CASE("events: nobody who is gone gets any", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  int asked = 0;
  {
    const Subscription events = scene.client->subscribe({{}, [&](const Event&) {
                                                           ++asked;
                                                           return true;
                                                         }});
    scene.send(event("A"));
    scene.until([&] { return scene.events.size() == 1; });
  }
  scene.send(event("B"));
  scene.until([&] { return scene.events.size() == 2; });
  CHECK(asked == 1);
}

TEST_CASE("events: a command's completion may come before its reply or after it", "[qmp]") {
  for (const bool before : {true, false}) {
    INFO(before);
    Scene scene;
    scene.shake_hands();
    const auto call = scene.start(
        execute_and_wait(*scene.client, "device_del", {{"id", "d"}}, {{"DEVICE_DELETED"}}, kLong));
    const std::string line = scene.line();
    const std::string deleted = event_with("DEVICE_DELETED", R"({"device": "d"})");
    scene.send(before ? deleted + answer(line, "7") : answer(line, "7") + event("STOP"));
    if (!before) {
      scene.settle();
      CHECK_FALSE(call->done);
      scene.send(deleted);
    }
    const Completion completion = scene.finish(call);
    CHECK(completion.value == 7);
    CHECK(completion.event.data.at("device") == "d");
  }
}

TEST_CASE("events: a completion that does not come ends at the deadline or the close", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto start = [&](std::chrono::milliseconds deadline) {
    const auto call = scene.start(
        execute_and_wait(*scene.client, "system_powerdown", nullptr, {{"SHUTDOWN"}}, deadline));
    scene.send(answer(scene.line()));
    return call;
  };
  CHECK_THROWS_AS(scene.finish(start(50ms)), Timeout);
  const auto call = start(kLong);
  scene.settle();
  scene.peer.reset();
  CHECK_THROWS_AS(scene.finish(call), Interrupted);
}

TEST_CASE("job: it is dismissed when it has concluded", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto job = start_job(scene);
  scene.send(answer(scene.line()) + job_event("created") + job_event("running"));
  scene.settle();
  CHECK_FALSE(job->done);
  scene.send(job_event("concluded"));
  const std::string query = scene.line();
  CHECK(query.find("query-jobs") != std::string::npos);
  scene.send(answer(query, R"([{"id": "other", "status": "running"},
                               {"id": "j", "status": "concluded"}])"));
  const std::string dismiss = scene.line();
  CHECK(Json::parse(dismiss).at("execute") == "job-dismiss");
  CHECK(Json::parse(dismiss).at("arguments") == Json{{"id", "j"}});
  scene.send(answer(dismiss));
  scene.finish(job);
}

TEST_CASE("job: somebody else may dismiss it first", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto job = start_job(scene);
  scene.send(answer(scene.line()) + job_event("created") + job_event("concluded"));
  scene.send(answer(scene.line(), R"([{"id": "j", "status": "concluded"}])"));
  scene.send(refusal(scene.line(), "GenericError"));
  scene.finish(job);
}

TEST_CASE("events: who looks at an event may subscribe", "[qmp]") {
  Scene scene;
  std::vector<Subscription> later;
  const Subscription first =
      scene.client->subscribe({{}, [&](const Event&) {
                                 for (int i = 0; i < 100; ++i) {
                                   later.push_back(scene.client->subscribe({}));
                                 }
                                 return true;
                               }});
  Subscription second = scene.client->subscribe({});
  scene.shake_hands();
  scene.send(event("STOP"));
  const auto got = scene.start(second.next());
  CHECK(std::get<Event>(scene.finish(got)).name == "STOP");
  CHECK(later.size() == 100);
}

TEST_CASE("job: it may have come and gone before its command returns", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto job = start_job(scene);
  const std::string line = scene.line();
  scene.send(job_event("created") + job_event("running") +
             event_with("BLOCK_JOB_COMPLETED", R"({"device": "j", "type": "backup"})") +
             job_event("concluded") + job_event("null") + answer(line));
  scene.send(answer(scene.line(), "[]"));
  scene.finish(job);
}

TEST_CASE("job: it fails in QEMU's words", "[qmp]") {
  for (const bool by_query : {true, false}) {
    INFO(by_query);
    Scene scene;
    scene.shake_hands();
    const auto job = start_job(scene);
    scene.send(job_event("created") + answer(scene.line()));
    if (!by_query) {
      scene.send(event_with("BLOCK_JOB_COMPLETED", R"({"device": "j", "error": "No space left"})"));
    }
    scene.send(job_event("concluded"));
    scene.send(answer(
        scene.line(),
        by_query ? R"([{"id": "j", "status": "concluded", "error": "No space left"}])" : "[]"));
    if (by_query) {
      scene.send(answer(scene.line()));
    }
    CHECK_THROWS_WITH(scene.finish(job), "Job j failed: No space left");
  }
}

}  // namespace
}  // namespace vmlaunch::qmp
