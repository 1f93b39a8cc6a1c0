#include <memory>
#include <string>
#include <vector>

#include "qmp/log.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;

/// What is shown of a conversation, line by line.
std::vector<std::string> shown(const std::string& sent, const std::string& received = "") {
  std::vector<std::string> lines;
  Log log;
  log.to([&](Direction direction, const std::string& message) {
    lines.push_back((direction == Direction::sent ? "> " : "< ") + message);
  });
  log.sent(sent);
  if (!received.empty()) {
    log.received(received);
  }
  return lines;
}

TEST_CASE("log: messages are shown as they are", "[qmp]") {
  CHECK(shown(R"({"execute":"stop","id":7})"
              "\n",
              "{\"return\": {}, \"id\": 7}\r\n") ==
        std::vector<std::string>{R"(> {"execute":"stop","id":7})", R"(< {"return":{},"id":7})"});
  CHECK(shown("\xff\n{\"execute\":\"qmp_capabilities\",\"id\":7}") ==
        std::vector<std::string>{R"(> {"execute":"qmp_capabilities","id":7})"});
  CHECK(shown(R"({"execute":"a","arguments":{"path":"\u001b[2Jä"},"id":7})")[0] ==
        R"(> {"execute":"a","arguments":{"path":"\u001b[2J\u00e4"},"id":7})");
  CHECK(shown("{}", "{\"id\": inf}")[1] == "< (no JSON)");
}

TEST_CASE("log: what is secret is hidden, and so is its answer", "[qmp]") {
  for (const std::string arguments : {
           R"("set_password","arguments":{"protocol":"vnc","password":"S3CRET"})",
           R"("object-add","arguments":{"qom-type":"secret","id":"s","data":"S3CRET"})",
           R"("object-add","arguments":{"qom-type":"secret_keyring","id":"s","data":"S3CRET"})",
           R"("blockdev-add","arguments":{"file":{"list":[{"cookie":"S3CRET"}]}})",
           R"("human-monitor-command","arguments":{"command-line":"change vnc S3CRET"})",
           R"("send-key","arguments":{"keys":[{"data":"S3CRET"}]})",
           R"("input-send-event","arguments":{"events":[{"data":"S3CRET"}]})",
           R"("ringbuf-write","arguments":{"device":"d","data":"S3CRET"})",
           R"("qom-set","arguments":{"path":"s","property":"data","value":"S3CRET"})",
           R"("qom-get","arguments":{"path":"s","property":"data"})",
       }) {
    INFO(arguments);
    const std::string command = R"({"execute":)" + arguments + R"(,"id":7})";
    for (const std::string answer : {
             R"({"return":"S3CRET","id":7})",
             R"({"id":7,"error":{"class":"GenericError","desc":"S3CRET is no password"}})",
         }) {
      const std::vector<std::string> lines = shown(command, answer);
      REQUIRE(lines.size() == 2);
      for (const std::string& line : lines) {
        CHECK(line.find("S3CRET") == std::string::npos);
      }
      CHECK(lines[1].find("(hidden)") != std::string::npos);
    }
  }
}

TEST_CASE("log: what is not secret is shown", "[qmp]") {
  for (const std::string command : {
           R"({"execute":"object-add","arguments":{"qom-type":"rng","data":"shown"},"id":7})",
           R"({"execute":"qom-get","arguments":{"path":"p","property":"type"},"id":7})",
       }) {
    const std::vector<std::string> lines = shown(command, R"({"return":"shown","id":7})");
    CHECK(lines[0] == "> " + command);
    CHECK(lines[1] == R"(< {"return":"shown","id":7})");
  }
}

TEST_CASE("log: the end of a long message is left out", "[qmp]") {
  const std::string command =
      R"({"execute":"a","arguments":{"a":")" + std::string(10000, 'x') + R"("},"id":7})";
  const std::string line = shown(command)[0];
  CHECK(line.size() < 5000);
  CHECK(line.ends_with("... of " + std::to_string(command.size()) + " bytes"));
}

TEST_CASE("log: it tells of what goes over the wire, until its client is gone", "[qmp]") {
  Scene scene;
  std::vector<std::string> lines;
  scene.client->log_to([&](Direction direction, const std::string& message) {
    lines.push_back((direction == Direction::sent ? "> " : "< ") + message);
    if (message.find("SHUTDOWN") != std::string::npos) {
      scene.client.reset();
    }
  });
  scene.shake_hands();
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].starts_with("< {\"QMP\":"));
  CHECK(lines[1].starts_with("> {\"execute\":\"qmp_capabilities\""));
  const auto call = scene.execute("stop");
  scene.send(answer(scene.line()));
  scene.finish(call);
  CHECK(lines.size() == 5);
  scene.send(event("SHUTDOWN") + event("STOP"));
  scene.until([&] { return !scene.client; });
  scene.settle();
  CHECK(lines.size() == 6);
}

TEST_CASE("log: who is told of a command may end its connection or send another", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  std::shared_ptr<Outcome<Json>> another;
  scene.client->log_to([&](Direction direction, const std::string& message) {
    if (direction == Direction::sent && message.find("first") != std::string::npos) {
      another = scene.execute("second");
    } else if (direction == Direction::sent) {
      scene.client.reset();
    }
  });
  const auto first = scene.execute("first");
  CHECK_THROWS_AS(scene.finish(first), Interrupted);
  CHECK_THROWS_AS(scene.finish(another), Interrupted);
  CHECK(Json::parse(scene.line()).at("execute") == "first");
  CHECK(Json::parse(scene.line()).at("execute") == "second");
  CHECK(scene.nothing_more().empty());
}

TEST_CASE("log: who is told of a look for life may end its connection", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  scene.client->log_to([&](Direction, const std::string& message) {
    if (message.find("query-yank") != std::string::npos) {
      scene.client.reset();
    }
  });
  const auto begin = Clock::now();
  const auto call = scene.execute("slow", 10s);
  CHECK_THROWS_AS(scene.finish(call), Interrupted);
  CHECK(Clock::now() - begin < 9s);  // not at the deadline
}

}  // namespace
}  // namespace vmlaunch::qmp
