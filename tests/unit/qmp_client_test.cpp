#include <fcntl.h>
#include <sys/socket.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/cancellation_signal.hpp>
#include <boost/system/system_error.hpp>

#include "base/file.hpp"
#include "qmp/client.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;

TEST_CASE("client: wrong order of calls is a logic error", "[qmp]") {
  Scene scene;
  CHECK_THROWS_AS(scene.finish(scene.execute("query-status")), std::logic_error);
  scene.shake_hands();
  CHECK_THROWS_AS(scene.finish(scene.start(scene.client->handshake(kLong))), std::logic_error);
}

TEST_CASE("client: a command gives the value that QEMU returned", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  Json arguments = Json::object();
  arguments["id"] = "net0";
  const auto call = scene.start(scene.client->execute("device_del", arguments, kLong));
  const std::string line = scene.line();
  CHECK(line == "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"net0\"},\"id\":" +
                    id_of(line) + "}\n");
  scene.send(answer(line, "{\"running\": false}"));
  CHECK(scene.finish(call) == Json::parse("{\"running\": false}"));
}

TEST_CASE("client: a command that QEMU refuses throws its error", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto call = scene.execute("nonsense");
  scene.send(refusal(scene.line(), "CommandNotFound"));
  CHECK_THROWS_AS(scene.finish(call), CommandError);
  CHECK_THROWS_WITH(call->get(), "Command nonsense failed: No (CommandNotFound)");
}

TEST_CASE("client: an error without an id fails one command and not the connection", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto first = scene.execute("first");
  const auto second = scene.execute("second");
  static_cast<void>(scene.line());
  const std::string line = scene.line();
  scene.send(kErrorWithoutId + answer(line, "2"));
  CHECK(scene.finish(second) == 2);
  CHECK_THROWS_WITH(first->get(), "Command first failed: Bad JSON (GenericError)");
  CHECK(scene.closes.empty());
}

TEST_CASE("client: what no QEMU can read is refused and not sent", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  Json arguments = Json::object();
  arguments["path"] = "/tmp/\xff";
  const auto call = scene.start(scene.client->execute("blockdev-add", arguments, kLong));
  CHECK_THROWS_AS(scene.finish(call), std::invalid_argument);
  CHECK(scene.nothing_more().empty());
}

TEST_CASE("client: a late reply is dropped and the next command is answered", "[qmp]") {
  Scene scene;
  scene.shake_hands(kPlainGreeting);
  const auto slow = scene.execute("slow", kShort);
  CHECK_THROWS_WITH(scene.finish(slow), "Command slow was not answered within 20ms");
  CHECK_THROWS_AS(slow->get(), Timeout);

  const auto next = scene.execute("next");
  scene.send(answer(scene.line(), "1"));
  scene.send(answer(scene.line(), "2"));
  CHECK(scene.finish(next) == 2);
  CHECK(scene.client->counters().late_replies == 1);
}

TEST_CASE("client: a command that is given up makes room for those behind it", "[qmp]") {
  Scene scene;
  scene.shake_hands(kPlainGreeting);
  const auto with_fd = [&](const char* command, std::chrono::milliseconds deadline) {
    std::vector<base::UniqueFd> fds;
    fds.push_back(base::open_file("/dev/null", O_RDONLY));
    return scene.start(scene.client->execute_with_fds(command, nullptr, std::move(fds), deadline));
  };
  const auto first = with_fd("first", kLong);
  const std::string line = scene.line();
  const auto second = with_fd("second", kShort);
  const auto third = scene.execute("third");
  CHECK(scene.nothing_more().empty());
  CHECK_FALSE(timeout_of(scene, second).sent());
  scene.send(answer(line, "1") + answer(scene.line(), "3"));
  CHECK(scene.finish(first) == 1);
  CHECK(scene.finish(third) == 3);
}

TEST_CASE("client: descriptors that cannot be sent are refused, and the connection stays",
          "[qmp]") {
  Scene scene;
  scene.shake_hands();
  for (const std::size_t count : {1U, 300U}) {
    std::vector<base::UniqueFd> fds(1);
    if (count > 1) {
      fds.clear();
      for (std::size_t i = 0; i < count; ++i) {
        fds.push_back(base::open_file("/dev/null", O_RDONLY));
      }
    }
    const auto call =
        scene.start(scene.client->execute_with_fds("getfd", nullptr, std::move(fds), kLong));
    CHECK_THROWS_AS(scene.finish(call), std::invalid_argument);
  }
  const auto next = scene.execute("next");
  scene.send(answer(scene.line(), "2"));
  CHECK(scene.finish(next) == 2);
}

TEST_CASE("client: a deadline in the past or beyond the clock is a deadline", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto past = scene.execute("past", -5ms);
  CHECK_THROWS_AS(scene.finish(past), Timeout);
  const auto far = scene.execute("far", std::chrono::milliseconds::max());
  static_cast<void>(scene.line());
  scene.send(answer(scene.line()));
  CHECK(scene.finish(far) == Json::object());
}

TEST_CASE("client: a cancelled caller leaves its command to QEMU", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  asio::cancellation_signal cancel;
  const auto call = scene.start(scene.client->execute("slow", nullptr, kLong), cancel.slot());
  const std::string line = scene.line();
  cancel.emit(asio::cancellation_type::terminal);
  CHECK_THROWS_AS(scene.finish(call), boost::system::system_error);

  scene.send(answer(line));
  const auto next = scene.execute("next");
  scene.send(answer(scene.line(), "2"));
  CHECK(scene.finish(next) == 2);
  CHECK(scene.client->counters().late_replies == 1);
}

TEST_CASE("client: a deadline never cuts a write, and an unsent command is never sent", "[qmp]") {
  Scene scene;
  scene.shake_hands(kPlainGreeting);
  Json arguments = Json::object();
  arguments["blob"] = std::string(std::size_t{4} << 20U, 'x');
  const auto big = scene.start(scene.client->execute("big", arguments, kShort));
  const auto unsent = scene.execute("unsent", kShort);
  CHECK_THROWS_WITH(scene.finish(unsent),
                    "Command unsent could not be sent within 20ms: QEMU does not read");
  CHECK_THROWS_WITH(scene.finish(big),
                    Catch::Matchers::StartsWith("Command big was not read to its end within 12"));
  CHECK(timeout_of(scene, big).sent());
  CHECK_FALSE(timeout_of(scene, unsent).sent());
  const auto last = scene.execute("last");

  const std::string big_line = scene.line();
  CHECK(big_line.size() > (std::size_t{4} << 20U));
  CHECK(Json::accept(big_line));
  const std::string last_line = scene.line();
  CHECK(Json::parse(last_line).at("execute") == "last");
  scene.send(answer(big_line) + answer(last_line, "3"));
  CHECK(scene.finish(last) == 3);
  CHECK(scene.client->counters().late_replies == 1);
}

TEST_CASE("client: the deadline counts from when the command was written", "[qmp]") {
  Scene scene;
  scene.shake_hands(kPlainGreeting);
  constexpr auto kDeadline = 600ms;
  Json arguments = Json::object();
  arguments["blob"] = std::string(std::size_t{1} << 20U, 'x');
  const auto begin = Clock::now();
  const auto call = scene.start(scene.client->execute("big", arguments, kDeadline));
  scene.until([&] { return Clock::now() > begin + kDeadline / 4; });
  const auto read_on = Clock::now();
  static_cast<void>(scene.line());
  CHECK_THROWS_WITH(scene.finish(call), "Command big was not answered within 3745ms");
  CHECK(Clock::now() - read_on >= 3745ms);
}

TEST_CASE("client: twenty commands at once each get their own answer, eight under way", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  std::vector<std::shared_ptr<Outcome<Json>>> calls;
  calls.reserve(20);
  for (int i = 0; i < 20; ++i) {
    calls.push_back(scene.execute("command-" + std::to_string(i)));
  }
  std::string replies;
  for (int i = 0; i < 20; ++i) {
    const std::string line = scene.line();
    CHECK(Json::parse(line).at("execute") == "command-" + std::to_string(i));
    replies += answer(line, std::to_string(i)) + event("E" + std::to_string(i));
    if (i % 8 == 7 || i == 19) {
      CHECK(scene.nothing_more().empty());
      scene.send(std::exchange(replies, ""));
    }
  }
  for (int i = 0; i < 20; ++i) {
    CHECK(scene.finish(calls.at(static_cast<std::size_t>(i))) == i);
  }
  CHECK(scene.events.size() == 20);
}

TEST_CASE("client: a command out of band passes those that wait", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  CHECK(scene.client->has_oob());
  std::vector<std::shared_ptr<Outcome<Json>>> calls;
  for (int i = 0; i < 10; ++i) {
    calls.push_back(scene.execute("slow"));
  }
  std::vector<std::string> lines;
  for (int i = 0; i < 8; ++i) {
    lines.push_back(scene.line());
  }
  const auto urgent = scene.start(scene.client->execute_oob("query-yank", nullptr, kLong));
  const std::string line = scene.line();
  CHECK(Json::parse(line).at("exec-oob") == "query-yank");
  scene.send(answer(line, "[]"));
  CHECK(scene.finish(urgent) == Json::array());
  CHECK_FALSE(calls.front()->done);
  for (int i = 0; i < 10; ++i) {
    scene.send(answer(lines.at(static_cast<std::size_t>(i))));
    lines.push_back(i < 2 ? scene.line() : "");
  }
  for (const auto& call : calls) {
    CHECK(scene.finish(call) == Json::object());
  }
}

TEST_CASE("client: a command that was begun is not cut by one whose turn comes meanwhile",
          "[qmp]") {
  Scene scene;
  scene.shake_hands();
  std::vector<std::shared_ptr<Outcome<Json>>> calls;
  std::vector<std::string> lines;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(scene.execute("slow"));
    lines.push_back(scene.line());
  }
  calls.push_back(scene.execute("ninth"));
  const Json blob = {{"blob", std::string(std::size_t{4} << 20U, 'x')}};
  const auto urgent = scene.start(scene.client->execute_oob("big", blob, kLong));
  scene.settle();  // the socket is full in the middle of it
  scene.send(answer(lines.front()));
  CHECK(scene.finish(calls.front()) == Json::object());
  const std::string first = scene.line();
  CHECK(Json::parse(first, nullptr, false).value("exec-oob", "") == "big");
  const std::string second = scene.line();
  CHECK(Json::parse(second, nullptr, false).value("execute", "") == "ninth");
  lines.push_back(second);
  scene.send(answer(first));
  for (std::size_t i = 1; i < lines.size(); ++i) {
    scene.send(answer(lines[i]));
    CHECK(scene.finish(calls[i]) == Json::object());
  }
  CHECK(scene.finish(urgent) == Json::object());
}

TEST_CASE("client: descriptors go with the first byte of their command, one command at a time",
          "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const base::Pipe pipe = base::make_pipe();
  const auto getfd = [&](const char* name) {
    std::vector<base::UniqueFd> fds;
    fds.push_back(base::duplicate(pipe.write_end.get()));
    return scene.start(
        scene.client->execute_with_fds("getfd", {{"fdname", name}}, std::move(fds), kLong));
  };
  const auto first = getfd("a");
  const auto second = getfd("b");
  const auto other = scene.execute("query-status");
  for (const auto& call : {first, second}) {
    scene.settle();
    auto [line, fds] = scene.line_with_fds();
    CHECK(fds.size() == 1);
    // What comes after stays in order.
    CHECK(scene.nothing_more().empty() == (call == first));
    CHECK_FALSE(call->done);
    scene.send(answer(line));
    CHECK(scene.finish(call) == Json::object());
  }
  scene.send(answer(scene.line()));
  CHECK(scene.finish(other) == Json::object());
}

TEST_CASE("client: a reply larger than any buffer arrives whole", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto call = scene.execute("query-qmp-schema");
  const std::string value = "\"" + std::string(3000000, 'y') + "\"";
  const std::string reply = answer(scene.line(), value);
  std::string_view rest = reply;
  scene.until([&] {
    const ssize_t sent = ::send(scene.peer.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
    rest.remove_prefix(sent > 0 ? static_cast<std::size_t>(sent) : 0);
    return rest.empty();
  });
  CHECK(scene.finish(call).get<std::string>().size() == 3000000);
}

}  // namespace
}  // namespace vmlaunch::qmp
