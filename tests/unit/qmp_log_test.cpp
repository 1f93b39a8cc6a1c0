#include <memory>
#include <string>
#include <utility>
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

/// Each line, and that the answer is hidden.
void check_hidden(const std::vector<std::string>& lines) {
  REQUIRE(lines.size() == 2);
  for (const std::string& line : lines) {
    CHECK(line.find("S3CRET") == std::string::npos);
  }
  CHECK(lines[1].find("(hidden)") != std::string::npos);
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
    for (const std::string how : {R"({"execute":)", R"({"exec-oob":)"}) {
      for (const std::string answer : {
               R"({"return":"S3CRET","id":7})",
               R"({"id":7,"error":{"class":"GenericError","desc":"S3CRET is no password"}})",
           }) {
        check_hidden(shown(how + arguments + R"(,"id":7})", answer));
      }
    }
  }
}

/// What is shown of a file's name, in a command whose answer quotes it, and of that answer.
std::vector<std::string> shown_of_file(const std::string& name) {
  const Json command = {
      {"execute", "a"}, {"arguments", {{"list", Json::array({name})}}}, {"id", 7}};
  std::vector<std::string> lines = shown(command.dump(), R"({"return":"S3CRET","id":7})");
  lines[0] = Json::parse(lines[0].substr(2)).at("arguments").at("list").at(0);
  return lines;
}

TEST_CASE("log: a password in a URL is hidden, and so is the answer", "[qmp]") {
  using Pair = std::pair<std::string, std::string>;
  for (const auto& [name, expected] : {
           Pair("https://user:S3CRET@host/a@b", "https://user:***@host/a@b"),
           Pair("https://user:S3CRET@S3CRET:#@host:80?x", "https://user:***@host:80?x"),
           Pair("nbd+unix://:S3CRET@host", "nbd+unix://:***@host"),
           Pair("a://u:S3CRET@h b://v:S3CRET@i c://j", "a://u:***@h b://v:***@i c://j"),
           Pair("://u:S3CRET@", "://u:***@"),
       }) {
    INFO(name);
    const std::vector<std::string> lines = shown_of_file(name);
    CHECK(lines[0] == expected);
    check_hidden(lines);
  }
  for (const std::string name :
       {"https://user@host:80/", "nbd://host:10809/a@b", "user:x@host", "https://", "://://"}) {
    INFO(name);
    const std::vector<std::string> lines = shown_of_file(name);
    CHECK(lines[0] == name);
    CHECK(lines[1] == R"(< {"return":"S3CRET","id":7})");
  }
}

TEST_CASE("log: what is secret in a json: name is hidden, and all of one that cannot be read",
          "[qmp]") {
  using Pair = std::pair<std::string, std::string>;
  for (const auto& [name, expected] : {
           Pair(R"(json:{"x": "é", "password":"S3CRET"})",
                R"-(json:{"x":"é","password":"(hidden)"})-"),
           Pair(R"(json:{"file.cookie":"S3CRET"})", R"-(json:{"file.cookie":"(hidden)"})-"),
           Pair(R"(json:{"file":{"url":"a://u:S3CRET@h"}})",
                R"(json:{"file":{"url":"a://u:***@h"}})"),
           Pair(R"(json:{"x":"json:{\"passwd\":\"S3CRET\"}"})",
                R"-(json:{"x":"json:{\"passwd\":\"(hidden)\"}"})-"),
           Pair("json:{'password':'S3CRET'}", "json:***"),
           Pair(R"(json:{"password":"S3CRET)", "json:***"),
           Pair("json: S3CRET", "json:***"),
           Pair(R"(cannot open 'json:{"password":"S3CRET"}': gone)",
                R"-(cannot open 'json:{"password":"(hidden)"}': gone)-"),
           Pair("a://u:S3CRET@h json:{'S3CRET':{}} S3CRET", "a://u:***@h json:***"),
           Pair(R"(json:{"password":"S3CRET"} a://u:S3CRET@h)",
                R"-(json:{"password":"(hidden)"} a://u:***@h)-"),
       }) {
    INFO(name);
    const std::vector<std::string> lines = shown_of_file(name);
    CHECK(lines[0] == expected);
    check_hidden(lines);
  }
  const std::vector<std::string> lines = shown_of_file(R"(json:{"driver":"raw"})");
  CHECK(lines[0] == R"(json:{"driver":"raw"})");
  CHECK(lines[1] == R"(< {"return":"S3CRET","id":7})");
}

TEST_CASE("log: nesting in a string that would exhaust the stack is hidden", "[qmp]") {
  const std::size_t half = 100000;
  const std::string name = R"(json:{"a":)" + std::string(half, '[') + std::string(half, ']') + "}";
  CHECK(shown_of_file(name)[0].find("(hidden)") != std::string::npos);
}

TEST_CASE("log: an answer is shown once, and only to a command that was", "[qmp]") {
  std::vector<std::string> lines;
  Log log;
  log.to([&](Direction, const std::string& message) { lines.push_back(message); });
  log.sent(R"({"execute":"a","id":7})");
  for (const std::string answer : {
           R"({"return":"S3CRET"})",
           R"({"error":{"class":"GenericError","desc":"S3CRET"}})",
           R"({"return":"S3CRET","id":8})",
           R"({"error":{"class":"GenericError","desc":"S3CRET"},"id":8})",
           R"({"return":"S3CRET","id":"7"})",
           R"({"return":"S3CRET","id":7.0})",
       }) {
    INFO(answer);
    log.received(answer);
    CHECK(lines.back().find("S3CRET") == std::string::npos);
    CHECK(lines.back().find("(hidden)") != std::string::npos);
  }
  log.received(R"({"return":"shown","id":7})");
  CHECK(lines.back() == R"({"return":"shown","id":7})");
  log.received(R"({"return":"S3CRET","id":7})");
  CHECK(lines.back() == R"-({"return":"(hidden)","id":7})-");
}

TEST_CASE("log: what QEMU says by itself is shown without passwords", "[qmp]") {
  CHECK(shown("{}", R"({"event":"A","data":{"file":"a://u:S3CRET@h","password":"S3CRET"}})")[1] ==
        R"-(< {"event":"A","data":{"file":"a://u:***@h","password":"(hidden)"}})-");
  CHECK(shown(R"({"execute":"query-block","id":7})",
              R"({"return":[{"file":"a://u:S3CRET@h"}],"id":7})")[1] ==
        R"(< {"return":[{"file":"a://u:***@h"}],"id":7})");
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

TEST_CASE("log: of a very long message its length is shown, and its answer is hidden", "[qmp]") {
  const std::string command =
      R"({"execute":"a","arguments":{"a":")" + std::string(300000, 'x') + R"("},"id":7})";
  CHECK(shown(command, R"({"return":"S3CRET","id":7})") ==
        std::vector<std::string>{"> (" + std::to_string(command.size()) + " bytes)",
                                 R"-(< {"return":"(hidden)","id":7})-"});
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
