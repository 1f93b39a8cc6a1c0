#include <limits>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "qmp/session.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/unreadable.hpp"

namespace vmlaunch::qmp {
namespace {

using State = Session::State;

constexpr Id kCapabilitiesId = 1234567890123456;
constexpr Id kFirstId = 1000001;

constexpr const char* kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, )"
    R"("capabilities": ["oob"]}})";
constexpr const char* kNegotiated = R"({"return": {}, "id": 1234567890123456})";
constexpr const char* kEvent =
    R"({"timestamp": {"seconds": 17, "microseconds": 5}, "event": "RESET", "data": {"guest": true}})";
constexpr const char* kForeignReply = R"({"return": {"status": "running"}, "id": 1})";
constexpr const char* kErrorWithoutId =
    R"({"error": {"class": "GenericError", "desc": "JSON parse error"}})";

Session make_session(Start start = Start::greeting) {
  return Session(start, {kCapabilitiesId, kFirstId});
}

Session running_session() {
  Session session = make_session();
  static_cast<void>(session.receive(kGreeting));
  static_cast<void>(session.receive(kNegotiated));
  REQUIRE(session.state() == State::running);
  return session;
}

/// A command that was made and sent.
Session::Command sent(Session& session,
                      const std::string& name,
                      const Json& arguments,
                      Session::Manner manner = {}) {
  Session::Command command = session.encode(name, arguments, manner);
  session.note_sent(command.id);
  return command;
}

std::string return_of(Id id, const std::string& value = "{}") {
  return R"({"return": )" + value + R"(, "id": )" + std::to_string(id) + "}";
}

std::string error_of(Id id, const std::string& error_class) {
  return R"({"id": )" + std::to_string(id) + R"(, "error": {"class": ")" + error_class +
         R"(", "desc": "No"}})";
}

bool ignored(const Message& message) {
  return std::holds_alternative<Ignored>(message);
}

/// Succeeds for a reply with a value.
void check_value(const Message& message, Id id, const Json& value) {
  const auto* reply = std::get_if<Reply>(&message);
  REQUIRE(reply != nullptr);
  CHECK(reply->id == id);
  REQUIRE(std::holds_alternative<Json>(reply->outcome));
  CHECK(std::get<Json>(reply->outcome) == value);
}

/// Succeeds for a reply with an error.
void check_error(const Message& message, Id id, const std::string& text) {
  const auto* reply = std::get_if<Reply>(&message);
  REQUIRE(reply != nullptr);
  CHECK(reply->id == id);
  REQUIRE(std::holds_alternative<CommandError>(reply->outcome));
  CHECK(std::get<CommandError>(reply->outcome).what() == text);
}

TEST_CASE("session: greeting, negotiation and commands follow each other", "[qmp]") {
  Session session = make_session();
  CHECK(session.state() == State::greeting_wait);

  const Message greeting = session.receive(kGreeting);
  REQUIRE(std::holds_alternative<Greeting>(greeting));
  CHECK(std::get<Greeting>(greeting).version == "7.2.22");
  CHECK(std::get<Greeting>(greeting).offers_oob);
  CHECK(session.state() == State::negotiating);
  CHECK(session.opening() ==
        "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},"
        "\"id\":1234567890123456}\n");

  CHECK(std::holds_alternative<Negotiated>(session.receive(kNegotiated)));
  CHECK(session.state() == State::running);

  const Session::Command command = sent(session, "query-status", nullptr);
  CHECK(command.id == kFirstId);
  CHECK(command.bytes == "{\"execute\":\"query-status\",\"id\":1000001}\n");
  check_value(session.receive(return_of(command.id, R"({"running": true})")),
              command.id,
              Json::parse(R"({"running": true})"));
}

TEST_CASE("session: a greeting without the usual members is one nevertheless", "[qmp]") {
  for (const char* text : {R"({"QMP": {}})",
                           R"({"QMP": 5})",
                           R"({"QMP": {"capabilities": [1]}})",
                           R"({"QMP": {"version": {"qemu": {"major": "7"}}}})"}) {
    INFO(text);
    Session session = make_session();
    const Message message = session.receive(text);
    REQUIRE(std::holds_alternative<Greeting>(message));
    CHECK(std::get<Greeting>(message).version.empty());
    CHECK_FALSE(std::get<Greeting>(message).offers_oob);
  }
}

TEST_CASE("session: only the first greeting counts", "[qmp]") {
  Session session = make_session();
  static_cast<void>(session.receive(kGreeting));
  CHECK(ignored(session.receive(kGreeting)));
  static_cast<void>(session.receive(kNegotiated));
  CHECK(ignored(session.receive(kGreeting)));
  CHECK(session.state() == State::running);
}

TEST_CASE("session: events are delivered in every state before the close", "[qmp]") {
  Session session = make_session();
  for (const char* next : {kGreeting, kNegotiated, "{}"}) {
    const Message message = session.receive(kEvent);
    REQUIRE(std::holds_alternative<Event>(message));
    const auto& event = std::get<Event>(message);
    CHECK(event.name == "RESET");
    CHECK(event.data == Json::parse(R"({"guest": true})"));
    CHECK(event.seconds == 17);
    CHECK(event.microseconds == 5);
    static_cast<void>(session.receive(next));
  }
  session.close({CloseReason::Kind::eof, "gone"});
  CHECK(ignored(session.receive(kEvent)));
}

TEST_CASE("session: an event may lack data and a time", "[qmp]") {
  Session session = running_session();
  for (
      const char* text :
      {R"({"event": "STOP"})",
       R"({"event": "STOP", "data": null, "timestamp": {}})",
       R"({"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}})",
       R"({"event": "STOP", "timestamp": {"seconds": 1e3, "microseconds": 18446744073709551615}})"}) {
    INFO(text);
    const Message message = session.receive(text);
    REQUIRE(std::holds_alternative<Event>(message));
    CHECK(std::get<Event>(message).data == Json::object());
    CHECK(std::get<Event>(message).seconds == -1);
    CHECK(std::get<Event>(message).microseconds == -1);
  }
}

TEST_CASE("session: a previous client's replies do not end the negotiation", "[qmp]") {
  Session session = make_session();
  CHECK(ignored(session.receive(kForeignReply)));
  CHECK(session.state() == State::greeting_wait);
  static_cast<void>(session.receive(kGreeting));
  CHECK(ignored(session.receive(kForeignReply)));
  CHECK(ignored(session.receive(kErrorWithoutId)));
  CHECK(ignored(session.receive(R"({"return": {}})")));
  CHECK(session.state() == State::negotiating);
  CHECK(session.counters().unknown_ids == 4);
  CHECK(std::holds_alternative<Negotiated>(session.receive(kNegotiated)));
}

TEST_CASE("session: the answer to the negotiation cannot come before the greeting", "[qmp]") {
  Session session = make_session();
  CHECK(ignored(session.receive(kNegotiated)));
  CHECK(session.state() == State::greeting_wait);
}

TEST_CASE("session: a refused negotiation is a reply with its error", "[qmp]") {
  Session session = make_session();
  static_cast<void>(session.receive(kGreeting));
  check_error(session.receive(error_of(kCapabilitiesId, "CommandNotFound")),
              kCapabilitiesId,
              "Command qmp_capabilities failed: No (CommandNotFound)");
  CHECK(session.state() == State::negotiating);
}

TEST_CASE("session: after a take-over the parser is reset and no greeting is needed", "[qmp]") {
  Session session = make_session(Start::take_over);
  CHECK(session.state() == State::negotiating);
  CHECK(session.opening() == "\xff{\"execute\":\"qmp_capabilities\",\"id\":1234567890123456}\n");
  CHECK(ignored(session.receive(kErrorWithoutId)));
  CHECK(ignored(session.receive(kForeignReply)));
  CHECK(std::holds_alternative<Negotiated>(session.receive(kNegotiated)));
}

TEST_CASE("session: after a take-over \"already complete\" counts as negotiated", "[qmp]") {
  Session session = make_session(Start::take_over);
  CHECK(std::holds_alternative<Negotiated>(
      session.receive(error_of(kCapabilitiesId, "CommandNotFound"))));
  CHECK(session.state() == State::running);
}

TEST_CASE("session: after a take-over any other refusal is an error", "[qmp]") {
  Session session = make_session(Start::take_over);
  check_error(session.receive(error_of(kCapabilitiesId, "GenericError")),
              kCapabilitiesId,
              "Command qmp_capabilities failed: No (GenericError)");
}

TEST_CASE("session: after a take-over the greeting of a fresh monitor is accepted", "[qmp]") {
  Session session = make_session(Start::take_over);
  CHECK(std::holds_alternative<Greeting>(session.receive(kGreeting)));
  CHECK(std::holds_alternative<Negotiated>(session.receive(kNegotiated)));
}

TEST_CASE("session: ids are short, random and not shared with the negotiation", "[qmp]") {
  for (int i = 0; i < 100; ++i) {
    const Session::Ids ids = Session::random_ids();
    CHECK(std::to_string(ids.first).size() == 7);
    CHECK(std::to_string(ids.first + 1000000).size() == 7);
    CHECK(std::to_string(ids.capabilities).size() == 16);
    CHECK(ids.capabilities <= Id{1} << 53U);
  }
  CHECK(Session::random_ids().capabilities != Session::random_ids().capabilities);
}

TEST_CASE("session: no id is used twice", "[qmp]") {
  Session session = running_session();
  const Id first = sent(session, "a", nullptr).id;
  static_cast<void>(session.receive(return_of(first)));
  const Id second = sent(session, "a", nullptr).id;
  session.withdraw(second);
  const Id third = sent(session, "a", nullptr).id;
  session.abandon(third);
  const Id fourth = sent(session, "a", nullptr).id;
  CHECK(std::vector<Id>{first, second, third, fourth} ==
        std::vector<Id>{kFirstId, kFirstId + 1, kFirstId + 2, kFirstId + 3});
}

TEST_CASE("session: a command is compact and leaves out empty arguments", "[qmp]") {
  Session session = running_session();
  CHECK(sent(session, "quit", Json::object()).bytes == "{\"execute\":\"quit\",\"id\":1000001}\n");
  const Json arguments = Json::parse(R"({"id": "é\"", "n": [1, 2.5, true, null, {"k": ""}]})");
  CHECK(sent(session, "device_add", arguments).bytes ==
        "{\"execute\":\"device_add\",\"arguments\":"
        "{\"id\":\"é\\\"\",\"n\":[1,2.5,true,null,{\"k\":\"\"}]},\"id\":1000002}\n");
}

TEST_CASE("session: what QEMU's parser would refuse is never sent", "[qmp]") {
  std::vector<std::string> bad_texts = tests::kUnreadable;
  // QEMU reads the first of these as the end of a string, and others not at all.
  const std::vector<std::string> more = {
      "\xc0\x80", "a\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe2\x82", "\xf0\x8f\xbf\xbf"};
  bad_texts.insert(bad_texts.end(), more.begin(), more.end());
  Session session = running_session();
  for (const std::string& text : bad_texts) {
    INFO(Catch::StringMaker<std::string>::convert(text));
    Json value = Json::object();
    value["path"]["list"].push_back("ok");
    value["path"]["list"].push_back("/dev/" + text);
    CHECK_THROWS_AS(sent(session, "blockdev-add", value), std::invalid_argument);
    Json key = Json::object();
    key["path"][text] = 1;
    CHECK_THROWS_AS(sent(session, "blockdev-add", key), std::invalid_argument);
    CHECK_THROWS_AS(sent(session, text, nullptr), std::invalid_argument);
  }
  CHECK(sent(session, "a", nullptr).id == kFirstId);
}

TEST_CASE("session: the neighbours of what QEMU refuses are sent", "[qmp]") {
  Session session = running_session();
  for (const char* text : {"\xef\xbf\xbd",
                           "\xef\xb7\x8f",
                           "\xef\xb7\xb0",
                           "\xf0\x9f\xbf\xbd",
                           "\x7f",
                           "\xf4\x8f\xbf\xbd",
                           "\xc2\x80",
                           "\xed\x9f\xbf",
                           "\xee\x80\x80",
                           "\t"}) {
    INFO(text);
    Json arguments = Json::object();
    arguments["path"] = text;
    CHECK_NOTHROW(sent(session, "a", arguments));
  }
}

TEST_CASE("session: arguments that are no JSON object are refused", "[qmp]") {
  Session session = running_session();
  CHECK_THROWS_WITH(sent(session, "a\n", Json::array()),
                    "Cannot send command a\\x0a: its arguments are not an object");
  Json infinite = Json::object();
  infinite["x"] = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(sent(session, "a", infinite), std::invalid_argument);
  Json binary = Json::object();
  binary["x"] = Json::binary({1, 2});
  CHECK_THROWS_AS(sent(session, "a", binary), std::invalid_argument);
}

/// Arguments that make a command of so many levels.
Json arguments_of(std::size_t levels) {
  Json value = 1;
  for (std::size_t level = 2; level < levels; ++level) {
    Json outer = level % 2 == 0 ? Json::array() : Json::object();
    (level % 2 == 0 ? outer[0] : outer["x"]) = std::move(value);
    value = std::move(outer);
  }
  Json arguments = Json::object();
  arguments["x"] = std::move(value);
  return arguments;
}

TEST_CASE("session: a command as deep as QEMU reads is sent, and no deeper one", "[qmp]") {
  Session session = running_session();
  CHECK_NOTHROW(sent(session, "a", arguments_of(1024)));
  CHECK_THROWS_WITH(
      sent(session, "a\n", arguments_of(1025)),
      "Cannot send command a\\x0a: it is nested deeper than the 1024 levels that QEMU "
      "reads");
}

TEST_CASE("session: a command of as many tokens as QEMU reads is sent, and no more", "[qmp]") {
  Session session = running_session();
  Json arguments = Json::object({{"x", Json::array()}, {"y", {{"a", 1.5}, {"b", true}}}});
  // {"execute":"a","arguments":{"x":[...],"y":{"a":1.5,"b":true}},"id":1}, with commas in "..."
  constexpr std::size_t kOthers = 1 + 4 + 2 + 1 + 2 + 2 + 1 + 2 + 9 + 1 + 4 + 1;
  constexpr std::size_t kLimit = std::size_t{2} * 1024 * 1024;
  Json& list = arguments["x"];
  while (kOthers + 2 * list.size() < kLimit) {  // one less, for the commas
    list.push_back(nullptr);
  }
  list[0] = Json::array();
  CHECK_NOTHROW(sent(session, "a", arguments));
  list[0].push_back(nullptr);
  CHECK_THROWS_WITH(sent(session, "a", arguments),
                    "Cannot send command a: it has more than the 2097152 tokens that QEMU reads");
}

TEST_CASE("session: a command of as many bytes as QEMU reads is sent, and no more", "[qmp]") {
  constexpr std::size_t kLimit = std::size_t{64} * 1024 * 1024;
  Session session = running_session();
  const std::size_t others = sent(session, "a", {{"x", ""}}).bytes.size();
  std::string text((kLimit - others) / 6, '\x01');  // \u0001
  text.append((kLimit - others) % 6, 'x');
  CHECK(sent(session, "a", {{"x", text}}).bytes.size() == kLimit);
  CHECK_THROWS_WITH(sent(session, "a", {{"x", text + "x"}}),
                    "Cannot send command a: it is longer than the 67108864 bytes that QEMU reads");
}

TEST_CASE("session: commands are refused in every state but running", "[qmp]") {
  Session session = make_session();
  CHECK_THROWS_AS(sent(session, "a", nullptr), std::logic_error);
  static_cast<void>(session.receive(kGreeting));
  CHECK_THROWS_AS(sent(session, "a", nullptr), std::logic_error);
  static_cast<void>(session.receive(kNegotiated));
  session.close({});
  CHECK_THROWS_AS(sent(session, "a", nullptr), std::logic_error);
}

TEST_CASE("session: an error reply names command, class and cause", "[qmp]") {
  Session session = running_session();
  const Id id = sent(session, "device_del", nullptr).id;
  const Message message = session.receive(error_of(id, "DeviceNotFound"));
  check_error(message, id, "Command device_del failed: No (DeviceNotFound)");
  const auto& error = std::get<CommandError>(std::get<Reply>(message).outcome);
  CHECK(error.command() == "device_del");
  CHECK(error.error_class() == "DeviceNotFound");
  CHECK(error.description() == "No");
}

TEST_CASE("session: a malformed error is an error nevertheless", "[qmp]") {
  Session session = running_session();
  const Id id = sent(session, "a", nullptr).id;
  check_error(
      session.receive(R"({"error": 5, "id": 1000001})"), id, "Command a failed:  (GenericError)");
}

TEST_CASE("session: an error without an id is the oldest command's", "[qmp]") {
  Session session = running_session();
  const Id first = sent(session, "first", nullptr).id;
  const Id second = sent(session, "second", nullptr).id;
  check_error(session.receive(kErrorWithoutId),
              first,
              "Command first failed: JSON parse error (GenericError)");
  check_value(session.receive(return_of(second)), second, Json::object());
  CHECK(ignored(session.receive(kErrorWithoutId)));
  CHECK(session.counters().unknown_ids == 1);
  CHECK(session.state() == State::running);
}

TEST_CASE("session: an error without an id goes with the abandoned command that it answers",
          "[qmp]") {
  Session session = running_session();
  const Id first = sent(session, "first", nullptr).id;
  const Id second = sent(session, "second", nullptr).id;
  session.abandon(first);
  CHECK(ignored(session.receive(kErrorWithoutId)));
  CHECK(session.counters().late_replies == 1);
  check_error(session.receive(kErrorWithoutId),
              second,
              "Command second failed: JSON parse error (GenericError)");
}

TEST_CASE("session: a value without an id is nobody's", "[qmp]") {
  Session session = running_session();
  const Id id = sent(session, "a", nullptr).id;
  CHECK(ignored(session.receive(R"({"return": {}})")));
  check_value(session.receive(return_of(id)), id, Json::object());
}

TEST_CASE("session: an error with somebody else's id is charged to nobody", "[qmp]") {
  Session session = running_session();
  const Id id = sent(session, "a", nullptr).id;
  for (const char* text : {R"({"error": {}, "id": 1})",
                           R"({"error": {}, "id": "1000001"})",
                           R"({"error": {}, "id": null})",
                           R"({"error": {}, "id": -1})",
                           R"({"error": {}, "id": 1000001.0})",
                           R"({"error": {}, "id": 18446744073709551616})"}) {
    INFO(text);
    CHECK(ignored(session.receive(text)));
  }
  CHECK(session.counters().unknown_ids == 6);
  check_value(session.receive(return_of(id)), id, Json::object());
}

TEST_CASE("session: an abandoned command's late reply is dropped and counted", "[qmp]") {
  Session session = running_session();
  const Id id = sent(session, "a", nullptr).id;
  session.abandon(id);
  CHECK(ignored(session.receive(return_of(id))));
  CHECK(session.counters().late_replies == 1);
  CHECK(ignored(session.receive(return_of(id))));
  CHECK(session.counters().unknown_ids == 1);
}

TEST_CASE("session: a withdrawn command takes no place in the order", "[qmp]") {
  Session session = running_session();
  session.withdraw(sent(session, "first", nullptr).id);
  const Id second = sent(session, "second", nullptr).id;
  check_error(session.receive(kErrorWithoutId),
              second,
              "Command second failed: JSON parse error (GenericError)");
}

TEST_CASE("session: a command whose reply was lost is not charged with later errors", "[qmp]") {
  Session session = running_session();
  const Id lost = sent(session, "lost", nullptr).id;
  const Id abandoned = sent(session, "abandoned", nullptr).id;
  const Id answered = sent(session, "answered", nullptr).id;
  const Id last = sent(session, "last", nullptr).id;
  session.abandon(abandoned);
  CHECK(ignored(session.receive(R"({"return": inf})")));
  check_value(session.receive(return_of(answered)), answered, Json::object());
  check_error(session.receive(kErrorWithoutId),
              last,
              "Command last failed: JSON parse error (GenericError)");
  // Still somebody waits for it, so it is among those that the close ends.
  CHECK(session.close({}) == std::vector<Id>{lost});
}

TEST_CASE("session: replies out of order still find their commands", "[qmp]") {
  Session session = running_session();
  const Id first = sent(session, "a", nullptr).id;
  const Id second = sent(session, "b", nullptr).id;
  check_value(session.receive(return_of(second, "2")), second, 2);
  check_value(session.receive(return_of(first, "1")), first, 1);
}

TEST_CASE("session: what is not a message is skipped and counted", "[qmp]") {
  Session session = running_session();
  const std::vector<std::string> texts = {"",
                                          "{",
                                          "{]}",
                                          "[]",
                                          "5",
                                          R"({"return": nan})",
                                          R"({"other": 1})",
                                          R"({"event": 5})",
                                          "{\"return\": \"\xff\"}"};
  for (const std::string& text : texts) {
    INFO(Catch::StringMaker<std::string>::convert(text));
    CHECK(ignored(session.receive(text)));
  }
  CHECK(session.counters().invalid == texts.size());
  CHECK(session.state() == State::running);
}

TEST_CASE("session: unknown members are ignored", "[qmp]") {
  Session session = running_session();
  const Id id = sent(session, "a", nullptr).id;
  check_value(
      session.receive(R"({"__x": {}, "id": 1000001, "x-y": 1, "return": []})"), id, Json::array());
}

TEST_CASE("session: a close gives the waiting commands once and keeps the first cause", "[qmp]") {
  Session session = running_session();
  const Id first = sent(session, "a", nullptr).id;
  const Id second = sent(session, "b", nullptr).id;
  const Id third = sent(session, "c", nullptr).id;
  session.abandon(second);
  const CloseReason cause{CloseReason::Kind::reset, "first"};
  CHECK_FALSE(session.close_reason());

  CHECK(session.close(cause) == std::vector<Id>{first, third});
  CHECK(session.close({CloseReason::Kind::local, "second"}).empty());
  CHECK(session.close_reason() == cause);
  CHECK(session.state() == State::closed);
  CHECK(ignored(session.receive(return_of(first))));
}

TEST_CASE("session: out-of-band is enabled where it is offered, and only there", "[qmp]") {
  Session offered = make_session();
  static_cast<void>(offered.receive(kGreeting));
  CHECK(Json::parse(offered.opening()).at("arguments") == Json{{"enable", {"oob"}}});
  CHECK_FALSE(offered.has_oob());
  static_cast<void>(offered.receive(kNegotiated));
  CHECK(offered.has_oob());
  CHECK(sent(offered, "query-yank", nullptr, {Band::out_of_band}).bytes ==
        "{\"exec-oob\":\"query-yank\",\"id\":1000001}\n");

  Session without = make_session();
  static_cast<void>(without.receive(R"({"QMP": {"version": {}, "capabilities": []}})"));
  CHECK_FALSE(Json::parse(without.opening()).contains("arguments"));
  static_cast<void>(without.receive(kNegotiated));
  CHECK_FALSE(without.has_oob());
  CHECK_THROWS_AS(without.encode("query-yank", nullptr, {Band::out_of_band}),
                  std::invalid_argument);

  Session taken = make_session(Start::take_over);
  static_cast<void>(taken.receive(kGreeting));
  static_cast<void>(taken.receive(kNegotiated));
  CHECK_FALSE(taken.has_oob());
}

TEST_CASE("session: eight commands in order are under way, and out-of-band passes them", "[qmp]") {
  Session session = running_session();
  std::vector<Id> ids;
  for (std::size_t i = 0; i < Session::kWindow; ++i) {
    const Session::Command command = session.encode("query-status", nullptr);
    CHECK(session.may_send(command.id));
    session.note_sent(command.id);
    ids.push_back(command.id);
  }
  const Id ninth = session.encode("query-status", nullptr).id;
  const Id urgent = session.encode("query-yank", nullptr, {Band::out_of_band}).id;
  CHECK_FALSE(session.may_send(ninth));
  CHECK(session.may_send(urgent));
  session.note_sent(urgent);
  check_value(session.receive(return_of(urgent)), urgent, Json::object());
  CHECK_FALSE(session.may_send(ninth));
  session.abandon(ids[0]);  // QEMU has it all the same
  CHECK_FALSE(session.may_send(ninth));
  CHECK(ignored(session.receive(return_of(ids[0]))));
  CHECK(session.may_send(ninth));
}

TEST_CASE("session: a command whose reply was lost is under way no more", "[qmp]") {
  Session session = running_session();
  Id last = 0;
  for (std::size_t i = 0; i < Session::kWindow; ++i) {
    last = sent(session, "query-status", nullptr).id;
  }
  check_value(session.receive(return_of(last)), last, Json::object());
  for (std::size_t i = 0; i < Session::kWindow; ++i) {
    const Id next = session.encode("query-status", nullptr).id;
    CHECK(session.may_send(next));
    session.note_sent(next);
  }
  CHECK_FALSE(session.may_send(session.encode("query-status", nullptr).id));
}

TEST_CASE("session: a reply out of band passes nobody over, and is charged with no error",
          "[qmp]") {
  Session session = running_session();
  const Id urgent = sent(session, "query-yank", nullptr, {Band::out_of_band}).id;
  const Id slow = sent(session, "blockdev-add", nullptr).id;
  const Id later = sent(session, "query-yank", nullptr, {Band::out_of_band}).id;
  check_value(session.receive(return_of(later)), later, Json::object());
  const Message charged = session.receive(kErrorWithoutId);
  REQUIRE(std::holds_alternative<Reply>(charged));
  CHECK(std::get<Reply>(charged).id == slow);
  check_value(session.receive(return_of(urgent)), urgent, Json::object());
}

TEST_CASE("session: an error without an id is nobody's while nothing was sent", "[qmp]") {
  Session session = running_session();
  const Id queued = session.encode("query-status", nullptr).id;
  CHECK(ignored(session.receive(kErrorWithoutId)));
  session.note_sent(queued);
  const Message charged = session.receive(kErrorWithoutId);
  REQUIRE(std::holds_alternative<Reply>(charged));
  CHECK(std::get<Reply>(charged).id == queued);
}

TEST_CASE("session: a reply to a command that was not sent is nobody's", "[qmp]") {
  Session session = running_session();
  const Id queued = session.encode("query-status", nullptr).id;
  CHECK(ignored(session.receive(return_of(queued))));
  CHECK(ignored(session.receive(R"({"return": inf, "id": )" + std::to_string(queued) + "}")));
  CHECK(session.counters().unknown_ids == 1);
  session.note_sent(queued);
  check_value(session.receive(return_of(queued)), queued, Json::object());
}

TEST_CASE("session: one command with descriptors is under way at a time", "[qmp]") {
  Session session = running_session();
  const Id first = sent(session, "getfd", {{"fdname", "a"}}, {Band::in_order, true}).id;
  const Id second = session.encode("getfd", {{"fdname", "b"}}, {Band::in_order, true}).id;
  const Id other = session.encode("query-status", nullptr).id;
  CHECK_FALSE(session.may_send(second));
  CHECK_FALSE(session.may_send(other));  // it stays behind the second
  check_value(session.receive(return_of(first)), first, Json::object());
  CHECK(session.may_send(second));
  CHECK_FALSE(session.may_send(other));
  session.note_sent(second);
  CHECK(session.may_send(other));
}

TEST_CASE("session: an answer that is no JSON fails its own command", "[qmp]") {
  Session session = running_session();
  const Id first = sent(session, "query-status", nullptr).id;
  const Id second = sent(session, "query-migrate", nullptr).id;
  const Message message =
      session.receive(R"({"return": {"mbps": inf}, "id": )" + std::to_string(second) + "}");
  REQUIRE(std::holds_alternative<Reply>(message));
  CHECK(std::get<Reply>(message).id == second);
  CHECK(std::holds_alternative<CommandError>(std::get<Reply>(message).outcome));
  CHECK(session.counters().invalid == 1);
  for (const std::string& text :
       {std::string(R"({"event": "X", "data": {"x": nan}, "id": )") + std::to_string(first) + "}",
        std::string(R"({"return": inf, "id": 99999999999999999999999})"),
        std::string(R"({"return": inf, "id": )")}) {
    INFO(text);
    CHECK(ignored(session.receive(text)));
  }
  CHECK(session.counters().unknown_ids == 0);
}

}  // namespace
}  // namespace vmlaunch::qmp
