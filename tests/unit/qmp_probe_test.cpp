#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "qmp/client.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;

constexpr auto kDeadline = 1500ms;

bool is_probe(const std::string& line) {
  return Json::parse(line).value("exec-oob", "") == "query-yank";
}

bool says(const Timeout& timeout, const std::string& words) {
  return std::string(timeout.what()).find(words) != std::string::npos;
}

TEST_CASE("probe: a main loop that is blocked is told from a QEMU that hangs", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto blocked = scene.execute("slow", kDeadline);
  const std::string command = scene.line();
  const std::string probe = scene.line();
  REQUIRE(is_probe(probe));
  scene.send(answer(probe, "[]"));
  const Timeout busy = timeout_of(scene, blocked);
  CHECK(busy.cause() == Timeout::Cause::blocked);
  CHECK(says(busy,
             "Command slow was not answered within 1500ms: QEMU lives, but its main loop has "
             "been busy for "));

  scene.send(answer(command));
  const auto silent = scene.execute("slow", kDeadline);
  static_cast<void>(scene.line());
  REQUIRE(is_probe(scene.line()));
  const Timeout hung = timeout_of(scene, silent);
  CHECK(hung.cause() == Timeout::Cause::silent);
  CHECK(says(hung, "QEMU is stopped or hangs"));
}

TEST_CASE("probe: none is sent before half of the deadline has passed", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto begun = Clock::now();
  const auto call = scene.execute("slow", kDeadline);
  const std::string command = scene.line();
  REQUIRE(is_probe(scene.line()));
  CHECK(Clock::now() - begun >= kDeadline / 2);
  scene.send(answer(command));
  scene.finish(call);
}

TEST_CASE("probe: a command that QEMU does not get to is explained too", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  std::vector<std::shared_ptr<Outcome<Json>>> window;
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < Session::kWindow; ++i) {
    window.push_back(scene.execute("slow"));
    lines.push_back(scene.line());
  }
  const auto waiting = scene.execute("waiting", kDeadline);
  const std::string probe = scene.line();
  REQUIRE(is_probe(probe));
  scene.send(answer(probe, "[]"));
  const Timeout timeout = timeout_of(scene, waiting);
  CHECK(timeout.cause() == Timeout::Cause::blocked);
  CHECK(says(timeout, "Command waiting could not be sent within 1500ms: QEMU lives"));
  for (std::size_t i = 0; i < Session::kWindow; ++i) {
    scene.send(answer(lines[i], std::to_string(i)));
    CHECK(scene.finish(window[i]) == i);
  }
  CHECK(scene.nothing_more().empty());
}

TEST_CASE("probe: none is sent for a command that is answered, nor to a monitor without its band",
          "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto call = scene.execute("quick", kDeadline);
  scene.send(answer(scene.line()));
  scene.finish(call);
  const auto after = Clock::now() + 2 * kDeadline;
  scene.until([&] { return Clock::now() > after; });
  CHECK(scene.nothing_more().empty());

  Scene plain;
  plain.shake_hands(kPlainGreeting);
  const auto slow = plain.execute("slow", kDeadline);
  static_cast<void>(plain.line());
  CHECK(timeout_of(plain, slow).cause() == Timeout::Cause::unknown);
  CHECK(plain.nothing_more().empty());
  CHECK_THROWS_AS(plain.finish(plain.start(plain.client->probe(kDeadline))), std::invalid_argument);
}

TEST_CASE("probe: one that cannot be sent tells nothing", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  Json arguments = Json::object();
  arguments["blob"] = std::string(std::size_t{1} << 20U, 'x');
  const auto big = scene.start(scene.client->execute("big", arguments, kLong));
  const auto behind = scene.execute("behind", kDeadline);
  const Timeout timeout = timeout_of(scene, behind);
  CHECK(timeout.cause() == Timeout::Cause::unknown);
  CHECK_FALSE(timeout.sent());
  scene.send(answer(scene.line()));
  scene.finish(big);
  CHECK(scene.nothing_more().empty());
}

TEST_CASE("probe: the main loop is not busy with what QEMU still reads", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  Json arguments = Json::object();
  arguments["blob"] = std::string(std::size_t{1} << 20U, 'x');
  const auto big = scene.start(scene.client->execute("big", arguments, kLong));
  const auto later = Clock::now() + kDeadline;
  scene.until([&] { return Clock::now() > later; });
  const auto pulse = scene.start(scene.client->probe(kLong));
  const std::string command = scene.line();
  const std::string probe = scene.line();
  REQUIRE(is_probe(probe));
  scene.send(answer(probe, "[]"));
  CHECK(scene.finish(pulse).busy < kDeadline / 2);
  scene.send(answer(command));
  scene.finish(big);
}

TEST_CASE("probe: an answer that comes after all is dropped", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto call = scene.execute("slow", kDeadline);
  const std::string command = scene.line();
  const std::string probe = scene.line();
  scene.send(answer(command, "1"));
  CHECK(scene.finish(call) == 1);
  scene.send(answer(probe, "[]"));
  const auto next = scene.execute("next");
  scene.send(answer(scene.line(), "2"));
  CHECK(scene.finish(next) == 2);
  CHECK(scene.client->counters().late_replies == 1);
}

TEST_CASE("probe: who asks is told, and for how long the main loop has been busy", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto idle = scene.start(scene.client->probe(kLong));
  scene.send(answer(scene.line(), "[]"));
  CHECK(scene.finish(idle).answers);
  CHECK(idle->value.busy == 0ms);

  const auto first = scene.execute("slow");
  const auto second = scene.execute("slow");
  const std::string first_line = scene.line();
  const std::string second_line = scene.line();
  const auto later = Clock::now() + kDeadline;
  scene.until([&] { return Clock::now() > later; });
  const auto busy = scene.start(scene.client->probe(kLong));
  scene.send(refusal(scene.line(), "CommandNotFound"));  // an answer as good as any
  CHECK(scene.finish(busy).answers);
  CHECK(busy->value.busy >= kDeadline);

  scene.send(answer(first_line));
  scene.finish(first);
  const auto next = scene.start(scene.client->probe(kLong));
  scene.send(answer(scene.line(), "[]"));
  CHECK(scene.finish(next).busy < busy->value.busy);  // it is at the second now
  scene.send(answer(second_line));
  scene.finish(second);

  const auto silent = scene.start(scene.client->probe(kShort));
  CHECK_FALSE(scene.finish(silent).answers);
}

}  // namespace
}  // namespace vmlaunch::qmp
