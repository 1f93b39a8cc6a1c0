#include <string>
#include <string_view>
#include <vector>

#include "qmp/errors.hpp"
#include "qmp/framer.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::qmp {
namespace {

using Texts = std::vector<std::string>;

void drain(Framer& framer, Texts& texts) {
  for (auto text = framer.next(); text; text = framer.next()) {
    texts.push_back(*text);
  }
}

Texts frame(std::string_view bytes, Framer::Start start = Framer::Start::at_message) {
  Framer framer(start);
  Texts texts;
  framer.feed(bytes);
  drain(framer, texts);
  return texts;
}

constexpr const char* kGreeting =
    R"({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, )"
    R"("capabilities": ["oob"]}})";
constexpr const char* kEvent =
    R"({"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"})";
constexpr const char* kNasty = R"({"return": "}{\"\\", "id": 7, "u": "\u00e9\\\"}"})";

std::string lines(const Texts& texts) {
  std::string bytes;
  for (const std::string& text : texts) {
    bytes += text;
    bytes += "\r\n";
  }
  return bytes;
}

TEST_CASE("framer: every split of a transcript gives the same messages", "[qmp]") {
  const Texts expected = {kGreeting, kEvent, kNasty};
  const std::string transcript = lines(expected);

  for (std::size_t first = 0; first <= transcript.size(); ++first) {
    INFO("cut at " << first);
    Framer framer;
    Texts texts;
    framer.feed(std::string_view(transcript).substr(0, first));
    drain(framer, texts);
    framer.feed(std::string_view(transcript).substr(first));
    drain(framer, texts);
    REQUIRE(texts == expected);
    REQUIRE(framer.skipped() == 0);
  }
}

TEST_CASE("framer: single bytes give the same messages", "[qmp]") {
  Framer framer;
  Texts texts;
  for (const char c : lines({kGreeting, kNasty})) {
    framer.feed(std::string_view(&c, 1));
    drain(framer, texts);
  }
  CHECK(texts == Texts{kGreeting, kNasty});
}

TEST_CASE("framer: messages need no line ends between them", "[qmp]") {
  CHECK(frame(std::string(kEvent) + kNasty + kEvent) == Texts{kEvent, kNasty, kEvent});
}

TEST_CASE("framer: a pretty-printed message is one message", "[qmp]") {
  const std::string pretty =
      "{\r\n    \"return\": {\r\n        \"a\": [\r\n        ]\r\n    }\r\n}";
  CHECK(frame(pretty + "\r\n" + pretty + "\r\n") == Texts{pretty, pretty});
}

TEST_CASE("framer: braces and escaped quotes inside strings do not count", "[qmp]") {
  const std::string text = R"({"a": "\\", "b": "\"}", "{": "[[["})";
  CHECK(frame(text + kEvent) == Texts{text, kEvent});
}

TEST_CASE("framer: an unfinished message is no message", "[qmp]") {
  CHECK(frame(R"({"return": {})").empty());
  CHECK(frame(R"({"return": "})").empty());
  CHECK(frame("").empty());
}

TEST_CASE("framer: what is outside objects is skipped to the end of its line and counted",
          "[qmp]") {
  Framer framer;
  Texts texts;
  framer.feed("QEMU 7.2 {monitor}\r\n(qemu) \n" + std::string(kEvent) + " ]x\n" + kNasty);
  drain(framer, texts);
  CHECK(texts == Texts{kEvent, kNasty});
  // The line ends are not counted, the carriage return inside a skipped line is.
  CHECK(framer.skipped() ==
        std::string_view("QEMU 7.2 {monitor}\r").size() + std::string_view("(qemu) ").size() + 2);
}

TEST_CASE("framer: white space between messages is not counted", "[qmp]") {
  Framer framer;
  framer.feed(" \t\r\n\n" + std::string(kEvent) + "\r\n \n");
  CHECK(framer.next() == kEvent);
  CHECK_FALSE(framer.next());
  CHECK(framer.skipped() == 0);
}

TEST_CASE("framer: an open bracket in an invalid message does not swallow the next one", "[qmp]") {
  CHECK(frame("{\"a\": [}\r\n" + std::string(kEvent)) == Texts{"{\"a\": [}", kEvent});
}

TEST_CASE("framer: a message in the middle is skipped to the newline", "[qmp]") {
  const auto start = Framer::Start::mid_stream;
  CHECK(frame("name\": {\"a\": 1}}\r\n" + std::string(kEvent), start) == Texts{kEvent});
  CHECK(frame("\n" + std::string(kEvent), start) == Texts{kEvent});
  CHECK(frame(lines({kEvent, kNasty}), start) == Texts{kNasty});
  CHECK(frame(kEvent, start).empty());
}

TEST_CASE("framer: the middle of a pretty-printed message is skipped too", "[qmp]") {
  const std::string rest = "e\": 1\r\n    },\r\n    \"id\": 5\r\n}\r\n";
  CHECK(frame(rest + kEvent, Framer::Start::mid_stream) == Texts{kEvent});
}

TEST_CASE("framer: a message over the limit is refused, however it arrives", "[qmp]") {
  const std::string text = R"({"return": "0123456789"})";

  Framer exact(Framer::Start::at_message, text.size());
  exact.feed(text + "\r\n" + text);
  CHECK(exact.next() == text);
  CHECK(exact.next() == text);

  Framer whole(Framer::Start::at_message, text.size() - 1);
  whole.feed(text);
  CHECK_THROWS_AS(whole.next(), ProtocolError);

  Framer pieces(Framer::Start::at_message, text.size() - 1);
  pieces.feed(text.substr(0, text.size() - 1));
  CHECK_FALSE(pieces.next());
  pieces.feed("}");
  CHECK_THROWS_WITH(pieces.next(), "A QMP message exceeds 23 bytes");

  for (const char* unfinished : {R"({"return": "0123456789abc)", R"({"return": 0123456789abcd)"}) {
    INFO(unfinished);
    Framer endless(Framer::Start::at_message, text.size() - 1);
    endless.feed(unfinished);
    CHECK_THROWS_AS(endless.next(), ProtocolError);
  }
}

TEST_CASE("framer: skipped bytes do not count towards the limit", "[qmp]") {
  Framer framer(Framer::Start::at_message, std::string_view(kEvent).size());
  for (int i = 0; i < 100; ++i) {
    framer.feed("no message, and longer than one by the time it ends ");
    CHECK_FALSE(framer.next());
  }
  framer.feed("\n" + std::string(kEvent));
  CHECK(framer.next() == kEvent);
}

TEST_CASE("framer: nesting that would exhaust the stack is refused", "[qmp]") {
  for (const std::string& open : {std::string("{\"a\":"), std::string("[")}) {
    INFO(open);
    Framer framer;
    std::string text = "{\"a\":";
    for (std::size_t i = 1; i < Framer::kNestingLimit; ++i) {
      text += open;
    }
    framer.feed(text);
    CHECK_FALSE(framer.next());
    framer.feed(open);
    CHECK_THROWS_WITH(framer.next(), "A QMP message is nested deeper than 1024 levels");
  }
}

/// An object with an array of so many values.
std::string message_of(std::size_t count, const std::string& value) {
  std::string text = R"({"return":[)";
  text.reserve(text.size() + count * (value.size() + 1) + 1);
  for (std::size_t i = 0; i < count; ++i) {
    text += value;
    text += ',';
  }
  text.back() = ']';
  return text + "}";
}

TEST_CASE("framer: more values than they are worth in memory are refused, of any kind", "[qmp]") {
  for (const std::string& value : {std::string("1"), std::string("[]"), std::string("{}")}) {
    INFO(value);
    const std::size_t most = (Framer::kValueLimit - 2) / value.size();  // with object and array
    const std::string text = message_of(most, value);
    Framer framer;
    framer.feed(text + text);
    CHECK(framer.next() == text);
    CHECK(framer.next() == text);  // each message counts by itself
    framer.feed(message_of(most + 1, value));
    CHECK_THROWS_WITH(framer.next(), "A QMP message has more than 2097152 values");
  }
}

TEST_CASE("framer: values are counted as they come, and commas in strings are none", "[qmp]") {
  Framer framer;
  framer.feed(R"({"return":[)");
  for (std::size_t fed = 0; fed <= Framer::kValueLimit; fed += 64 * 1024) {
    CHECK_FALSE(framer.next());
    framer.feed(std::string(64 * 1024, ','));
  }
  CHECK_THROWS_AS(framer.next(), ProtocolError);

  const std::string text = R"({"return":")" + std::string(Framer::kValueLimit + 1, ',') + "\"}";
  CHECK(frame(text) == Texts{text});
}

}  // namespace
}  // namespace vmlaunch::qmp
