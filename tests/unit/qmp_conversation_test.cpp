// One conversation, cut up in every way, and ended at every step in every way.

#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/cancellation_signal.hpp>
#include <boost/system/system_error.hpp>

#include "qmp/client.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;
using std::chrono::milliseconds;

/// A message as QEMU writes it with pretty=on.
std::string prettily(const std::string& message) {
  return Json::parse(message).dump(4) + "\r\n";
}

/// Both sides of it, step by step.
class Conversation {
 public:
  static constexpr std::size_t kSteps = 10;
  static constexpr std::size_t kShaken = 4;  ///< the steps after which the handshake is done
  static constexpr std::size_t kAsked = 5;   ///< … the three commands are sent
  static constexpr std::size_t kRead = 6;    ///< … and the peer has read them

  explicit Conversation(milliseconds deadline = kLong, bool pretty = false)
      : deadline_(deadline), pretty_(pretty) {}

  void play(std::size_t steps) {
    while (played < steps) {
      play_step(played++);
      scene.settle();
    }
  }

  void read_lines() {
    for (Question& question : questions) {
      question.line = scene.line();
    }
  }

  struct Question {
    std::size_t answered_by;  ///< the steps after which its answer is there
    std::shared_ptr<Outcome<Json>> call = nullptr;
    std::string line = "";
  };

  Scene scene;
  std::size_t played = 0;
  std::shared_ptr<Outcome<Greeting>> greeting;
  std::vector<Question> questions = {{9}, {10}, {7}};
  asio::cancellation_signal cancel_greeting;
  std::array<asio::cancellation_signal, 3> cancel_questions;

 private:
  void play_step(std::size_t step) {
    switch (step) {
      case 0:
        greeting = scene.start(scene.client->handshake(deadline_), cancel_greeting.slot());
        break;
      case 1:
        say(kGreeting);
        break;
      case 2:
        capabilities_ = scene.line();
        break;
      case 3:
        say(event("STOP"));
        say(answer(capabilities_));
        static_cast<void>(scene.finish(greeting));
        break;
      case 4:
        ask(0, scene.client->execute("query-status", nullptr, deadline_));
        ask(1, scene.client->execute("nonsense", nullptr, deadline_));
        ask(2, scene.client->execute_oob("query-yank", nullptr, deadline_));
        break;
      case 5:
        read_lines();
        break;
      case 6:
        say(answer(questions[2].line, R"([{"type": "}"}])"));
        break;
      case 7:
        say(event("RESUME"));
        say_part(answer(questions[0].line, R"("{\"")"), 0, kHalf);
        break;
      case 8:
        say_part(answer(questions[0].line, R"("{\"")"), kHalf, std::string::npos);
        break;
      default:
        say(refusal(questions[1].line, "CommandNotFound"));
    }
  }

  void ask(std::size_t index, asio::awaitable<Json> call) {
    questions[index].call = scene.start(std::move(call), cancel_questions[index].slot());
  }

  void say(const std::string& message) { say_part(message, 0, std::string::npos); }

  void say_part(const std::string& message, std::size_t from, std::size_t count) {
    scene.send((pretty_ ? prettily(message) : message).substr(from, count));
  }

  static constexpr std::size_t kHalf = 11;  // {"return":
  milliseconds deadline_;
  bool pretty_;
  std::string capabilities_;
};

TEST_CASE("conversation: it is the same however its bytes are cut up", "[qmp]") {
  for (const bool pretty : {false, true}) {
    std::size_t whole = 1;
    for (std::size_t split = 0; split < whole; ++split) {
      INFO("pretty " << pretty << ", split after " << split << " bytes");
      Conversation talk(kLong, pretty);
      talk.scene.split = split;
      talk.play(Conversation::kSteps);
      whole = talk.scene.sent;

      CHECK(talk.greeting->get().version == "7.2.22");
      CHECK(talk.questions[0].call->get() == "{\"");
      CHECK_THROWS_WITH(talk.questions[1].call->get(),
                        "Command nonsense failed: No (CommandNotFound)");
      CHECK(talk.questions[2].call->get() == Json::parse(R"([{"type": "}"}])"));
      CHECK(talk.scene.events == std::vector<std::string>{"STOP", "RESUME"});
      CHECK(talk.scene.client->counters().invalid == 0);
      CHECK(talk.scene.closes.empty());
    }
    CHECK(whole > 400);
  }
}

/// That a conversation ended by `Error`, except for what had been answered before.
template <typename HandshakeFailure, typename CallFailure>
void check_ends(Conversation& talk) {
  talk.scene.until([&] { return talk.greeting->done; });
  if (talk.played < Conversation::kShaken) {
    CHECK_THROWS_AS(talk.greeting->get(), HandshakeFailure);
  } else {
    CHECK(talk.greeting->get().version == "7.2.22");
  }
  for (const auto& question : talk.questions) {
    if (talk.played >= Conversation::kAsked) {
      talk.scene.until([&] { return question.call->done; });
      if (talk.played < question.answered_by) {
        CHECK_THROWS_AS(question.call->get(), CallFailure);
      } else if (&question == &talk.questions[1]) {
        CHECK_THROWS_AS(question.call->get(), CommandError);
      } else {
        CHECK_FALSE(question.call->get().is_null());
      }
    }
  }
}

/// For each step: played up to there, ended by `end`, with one close of that kind.
void end_everywhere(Kind kind, const std::function<void(Conversation&)>& end) {
  for (std::size_t steps = 1; steps <= Conversation::kSteps; ++steps) {
    INFO("after step " << steps);
    Conversation talk;
    talk.play(steps);
    end(talk);
    check_ends<HandshakeError, Interrupted>(talk);
    talk.scene.until_closed();
    talk.scene.settle();
    CHECK(talk.scene.closes.size() == 1);
    const Kind found = talk.scene.closes.front().kind;
    // What the peer has not read makes of its end a reset.
    CHECK((found == kind || (kind == Kind::eof && found == Kind::reset)));
  }
}

TEST_CASE("conversation: QEMU's end at any step ends it all", "[qmp]") {
  end_everywhere(Kind::eof, [](Conversation& talk) { talk.scene.peer.reset(); });
}

TEST_CASE("conversation: a message beyond the limits at any step ends it all", "[qmp]") {
  end_everywhere(Kind::protocol,
                 [](Conversation& talk) { talk.scene.send(R"({"a": )" + std::string(2000, '[')); });
}

TEST_CASE("conversation: a close at any step ends it all", "[qmp]") {
  end_everywhere(Kind::local, [](Conversation& talk) { talk.scene.client->close(); });
}

TEST_CASE("conversation: a write that fails ends it all", "[qmp]") {
  for (std::size_t steps = 0; steps <= Conversation::kSteps; ++steps) {
    INFO("after step " << steps);
    Conversation talk;
    talk.play(steps);
    if (steps == 1 || steps >= Conversation::kShaken) {
      REQUIRE(::shutdown(talk.scene.peer.get(), SHUT_RD) == 0);
      if (steps == 1) {
        talk.scene.send(kGreeting);
      } else {
        const auto call = talk.scene.execute("query-status");
        talk.scene.until([&] { return call->done; });
        CHECK_THROWS_AS(call->get(), Interrupted);
      }
      check_ends<HandshakeError, Interrupted>(talk);
      talk.scene.until_closed();
      CHECK(talk.scene.closes.front().kind == Kind::reset);
    }
  }
}

TEST_CASE("conversation: destroyed at any step, the client ends what waits and says nothing",
          "[qmp]") {
  for (std::size_t steps = 1; steps <= Conversation::kSteps; ++steps) {
    INFO("after step " << steps);
    Conversation talk;
    talk.play(steps);
    talk.scene.client.reset();
    check_ends<HandshakeError, Interrupted>(talk);
    talk.scene.settle();
    CHECK(talk.scene.closes.empty());
  }
}

/// A connection outlives the calls that nobody waits for any more: their answers are dropped.
void check_goes_on(Conversation& talk) {
  CHECK(talk.scene.closes.empty());
  if (talk.played < Conversation::kAsked) {
    return;
  }
  if (talk.played < Conversation::kRead) {
    talk.read_lines();
  }
  std::size_t late = 0;
  if (talk.played == 8) {
    talk.scene.send(" 0, \"id\": " + id_of(talk.questions[0].line) + "}\r\n");
    ++late;
  }
  for (const auto& question : talk.questions) {
    const bool begun = talk.played == 8 && &question == &talk.questions.front();
    if (talk.played < question.answered_by && !begun) {
      talk.scene.send(answer(question.line));
      ++late;
    }
  }
  const auto call = talk.scene.execute("stop");
  std::string line = talk.scene.line();
  while (line.find("query-yank") != std::string::npos) {
    line = talk.scene.line();  // they had looked whether QEMU lives
  }
  talk.scene.send(answer(line, "7"));
  CHECK(talk.scene.finish(call) == 7);
  CHECK(talk.scene.client->counters().late_replies == late);
}

TEST_CASE("conversation: silence from any step on ends what waits, and no more", "[qmp]") {
  std::vector<std::unique_ptr<Conversation>> talks;
  talks.reserve(Conversation::kSteps);
  for (std::size_t steps = 1; steps <= Conversation::kSteps; ++steps) {
    talks.push_back(std::make_unique<Conversation>(milliseconds(1000)));
    talks.back()->play(steps);
  }
  for (const auto& talk : talks) {
    INFO("after step " << talk->played);
    check_ends<HandshakeError, Timeout>(*talk);
    if (talk->played >= Conversation::kShaken) {
      check_goes_on(*talk);
    } else {
      talk->scene.until_closed();
    }
  }
}

TEST_CASE("conversation: a caller that leaves at any step leaves the rest alone", "[qmp]") {
  using boost::system::system_error;
  for (std::size_t steps = 1; steps <= Conversation::kSteps; ++steps) {
    INFO("after step " << steps);
    Conversation talk;
    talk.play(steps);
    talk.cancel_greeting.emit(asio::cancellation_type::terminal);
    for (auto& cancel : talk.cancel_questions) {
      cancel.emit(asio::cancellation_type::terminal);
    }
    check_ends<system_error, system_error>(talk);
    if (steps >= Conversation::kShaken) {
      check_goes_on(talk);
    } else {
      talk.scene.until_closed();
    }
  }
}

}  // namespace
}  // namespace vmlaunch::qmp
