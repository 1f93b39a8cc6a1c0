#include "launcher/run/stop_ladder.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/catch.hpp"

namespace vmlaunch::launcher::run {
namespace {

using namespace std::chrono_literals;
using base::Milliseconds;
using Action = StopLadder::Action;

struct Ask {
  Milliseconds at;
  bool guest_runs = true;
};

/// What a ladder did, as "1000 power button, 61000 quit, …", and what it says of it at the end.
struct Climb {
  std::string actions;
  bool had_to_kill = false;
  bool hurried = false;

  bool operator==(const Climb&) const = default;
};

std::ostream& operator<<(std::ostream& stream, const Climb& climb) {
  return stream << climb.actions << (climb.had_to_kill ? " (had to kill)" : "")
                << (climb.hurried ? " (hurried)" : "");
}

const char* name_of(Action action) {
  switch (action) {
    case Action::power_button:
      return "power button";
    case Action::quit:
      return "quit";
    case Action::terminate:
      return "SIGTERM";
    case Action::kill:
      return "SIGKILL";
    case Action::give_up:
      return "give up";
  }
  return "";
}

StopLadder::Time at(Milliseconds time) {
  return StopLadder::Time(time);
}

/// Lets time pass for a ladder whose guest never ends.
class Simulation {
 public:
  Simulation(const plan::Deadlines& deadlines, std::vector<Ask> asks)
      : ladder_(deadlines), asks_(std::move(asks)) {}

  /// Wakes up only when the ladder or somebody who asks says so, as a run does.
  Climb by_events(Milliseconds end) {
    std::optional<Milliseconds> now = next_event(0ms);
    for (int steps = 0; now && *now <= end; ++steps) {
      REQUIRE(steps < 1000);  // a ladder that says "now" for ever and has nothing
      step(*now);
      now = next_event(*now);
    }
    return result();
  }

  /// Looks every millisecond.
  Climb by_ticks(Milliseconds end) {
    for (Milliseconds now = 0ms; now <= end; ++now) {
      step(now);
    }
    return result();
  }

 private:
  void step(Milliseconds now) {
    while (asked_ < asks_.size() && asks_[asked_].at <= now) {
      ladder_.request(at(now), asks_[asked_].guest_runs);
      ++asked_;
      take_all(now);
    }
    take_all(now);
  }

  void take_all(Milliseconds now) {
    while (const std::optional<Action> action = ladder_.due(at(now))) {
      actions_ +=
          (actions_.empty() ? "" : ", ") + std::to_string(now.count()) + " " + name_of(*action);
      REQUIRE(actions_.size() < 100000);
    }
  }

  [[nodiscard]] std::optional<Milliseconds> next_event(Milliseconds now) const {
    std::optional<Milliseconds> next;
    if (asked_ < asks_.size()) {
      next = asks_[asked_].at;
    }
    if (const auto time = ladder_.next()) {
      const auto ladders = std::max(now, std::chrono::ceil<Milliseconds>(time->time_since_epoch()));
      next = std::min(next.value_or(ladders), ladders);
    }
    return next;
  }

  [[nodiscard]] Climb result() const {
    return {actions_, ladder_.had_to_kill(), ladder_.hurried()};
  }

  StopLadder ladder_;
  std::vector<Ask> asks_;
  std::size_t asked_ = 0;
  std::string actions_;
};

/// powerdown 60 s, pressed again every 10 s, quit 5 s, terminate 5 s, kill 10 s.
const plan::Deadlines kUsual{};

Climb climb(const std::vector<Ask>& asks, const plan::Deadlines& deadlines = kUsual) {
  return Simulation(deadlines, asks).by_events(1h);
}

const std::string kPresses =
    "0 power button, 10000 power button, 20000 power button, 30000 power button, "
    "40000 power button, 50000 power button, ";

TEST_CASE("stop ladder: nobody asked, nothing happens", "[run]") {
  StopLadder ladder(kUsual);
  CHECK_FALSE(ladder.requested());
  CHECK_FALSE(ladder.next());
  CHECK_FALSE(ladder.due(at(24h)));
  CHECK(climb({}) == Climb{});
}

TEST_CASE("stop ladder: a guest that never reacts is pressed, told to quit, ended and killed",
          "[run]") {
  CHECK(climb({{0ms}}) ==
        Climb{kPresses + "60000 quit, 65000 SIGTERM, 70000 SIGKILL, 80000 give up", true, false});
}

TEST_CASE("stop ladder: the second request turns to quit at once", "[run]") {
  struct Row {
    const char* name;
    Milliseconds second;
    Climb climb;
  };
  for (const Row& row : {
           Row{"at once",
               0ms,
               {"0 power button, 0 quit, 5000 SIGTERM, 10000 SIGKILL, 20000 give up", false, true}},
           Row{"while waiting",
               12345ms,
               {"0 power button, 10000 power button, 12345 quit, 17345 SIGTERM, 22345 SIGKILL, "
                "32345 give up",
                false,
                true}},
           Row{"just before the deadline",
               59999ms,
               {kPresses + "59999 quit, 64999 SIGTERM, 69999 SIGKILL, 79999 give up", false, true}},
           Row{"after quit, unasked",
               60001ms,
               {kPresses + "60000 quit, 65000 SIGTERM, 70000 SIGKILL, 80000 give up", true, true}},
           Row{"after SIGTERM",
               66000ms,
               {kPresses + "60000 quit, 65000 SIGTERM, 70000 SIGKILL, 80000 give up", true, true}},
           Row{"after SIGKILL",
               71000ms,
               {kPresses + "60000 quit, 65000 SIGTERM, 70000 SIGKILL, 80000 give up", true, true}},
           Row{"after all",
               90000ms,
               {kPresses + "60000 quit, 65000 SIGTERM, 70000 SIGKILL, 80000 give up", true, true}},
       }) {
    INFO(row.name);
    CHECK(climb({{0ms}, {row.second}}) == row.climb);
  }
}

TEST_CASE("stop ladder: the third request kills at once", "[run]") {
  struct Row {
    const char* name;
    std::vector<Ask> asks;
    Climb climb;
  };
  for (const Row& row : {
           Row{"three at once",
               {{0ms}, {0ms}, {0ms}},
               {"0 power button, 0 quit, 0 SIGKILL, 10000 give up", false, true}},
           Row{"one by one",
               {{0ms}, {1000ms}, {2000ms}},
               {"0 power button, 1000 quit, 2000 SIGKILL, 12000 give up", false, true}},
           Row{"during SIGTERM",
               {{0ms}, {1000ms}, {6001ms}},
               {"0 power button, 1000 quit, 6000 SIGTERM, 6001 SIGKILL, 16001 give up",
                false,
                true}},
           Row{"after the kill",
               {{0ms}, {1000ms}, {12000ms}},
               {"0 power button, 1000 quit, 6000 SIGTERM, 11000 SIGKILL, 21000 give up",
                false,
                true}},
           Row{"a fourth changes nothing",
               {{0ms}, {0ms}, {0ms}, {5000ms}},
               {"0 power button, 0 quit, 0 SIGKILL, 10000 give up", false, true}},
           Row{"after give up",
               {{0ms}, {0ms}, {0ms}, {50000ms}},
               {"0 power button, 0 quit, 0 SIGKILL, 10000 give up", false, true}},
       }) {
    INFO(row.name);
    CHECK(climb(row.asks) == row.climb);
  }
}

TEST_CASE("stop ladder: a guest that does not run yet is not asked to shut down", "[run]") {
  CHECK(climb({{0ms, false}}) ==
        Climb{"0 quit, 5000 SIGTERM, 10000 SIGKILL, 20000 give up", false, true});
  CHECK(climb({{0ms, false}, {100ms, false}}) ==
        Climb{"0 quit, 100 SIGKILL, 10100 give up", false, true});
  CHECK(climb({{0ms, false}, {100ms, true}}) ==
        Climb{"0 quit, 100 SIGKILL, 10100 give up", false, true});
}

TEST_CASE("stop ladder: a second request counts once whether the guest runs or not", "[run]") {
  CHECK(climb({{0ms}, {100ms, false}}) ==
        Climb{"0 power button, 100 quit, 5100 SIGTERM, 10100 SIGKILL, 20100 give up", false, true});
}

TEST_CASE("stop ladder: an action that was overtaken before it was given out is left out",
          "[run]") {
  StopLadder ladder(kUsual);
  ladder.request(at(0ms), true);
  ladder.request(at(0ms), true);
  CHECK(ladder.due(at(0ms)) == Action::quit);
  CHECK_FALSE(ladder.due(at(0ms)));
}

TEST_CASE("stop ladder: a patience of nothing turns to quit right after the power button",
          "[run]") {
  plan::Deadlines deadlines;
  deadlines.powerdown = 0ms;
  CHECK(climb({{7ms}}, deadlines) ==
        Climb{"7 power button, 7 quit, 5007 SIGTERM, 10007 SIGKILL, 20007 give up", true, false});
}

TEST_CASE("stop ladder: a patience shorter than the pause between presses has one press", "[run]") {
  plan::Deadlines deadlines;
  deadlines.powerdown = 9999ms;
  CHECK(
      climb({{0ms}}, deadlines) ==
      Climb{"0 power button, 9999 quit, 14999 SIGTERM, 19999 SIGKILL, 29999 give up", true, false});
}

TEST_CASE("stop ladder: a supervisor that slept goes up one step at a time", "[run]") {
  StopLadder ladder(kUsual);
  ladder.request(at(0ms), true);
  CHECK(ladder.due(at(0ms)) == Action::power_button);
  CHECK(ladder.due(at(1h)) == Action::quit);
  CHECK_FALSE(ladder.due(at(1h)));
  CHECK(ladder.next() == at(1h + 5s));
}

TEST_CASE("stop ladder: it had to kill only when a deadline passed that nobody hurried", "[run]") {
  StopLadder ladder(kUsual);
  ladder.request(at(0ms), true);
  CHECK(ladder.requested());
  CHECK(ladder.due(at(0ms)) == Action::power_button);
  CHECK(ladder.due(at(59999ms)) == Action::power_button);
  CHECK_FALSE(ladder.had_to_kill());
  CHECK(ladder.due(at(60000ms)) == Action::quit);
  CHECK(ladder.had_to_kill());
  CHECK_FALSE(ladder.hurried());
}

TEST_CASE("stop ladder: it says exactly when it has something next", "[run]") {
  std::mt19937 random(4711);
  const auto upto = [&](int most) {
    return Milliseconds(std::uniform_int_distribution<int>(0, most)(random));
  };
  for (int round = 0; round < 300; ++round) {
    plan::Deadlines deadlines;
    deadlines.powerdown = upto(80);
    deadlines.powerdown_again = 1ms + upto(20);
    deadlines.quit = upto(10);
    deadlines.terminate = upto(10);
    deadlines.kill = upto(20);
    std::vector<Ask> asks(static_cast<std::size_t>(upto(5).count()));
    for (Ask& ask : asks) {
      ask = {upto(150), upto(3) != 0ms};
    }
    std::sort(asks.begin(), asks.end(), [](const Ask& a, const Ask& b) { return a.at < b.at; });
    INFO("round " << round);
    const Climb by_ticks = Simulation(deadlines, asks).by_ticks(400ms);
    CHECK(Simulation(deadlines, asks).by_events(400ms) == by_ticks);
    CHECK(by_ticks.actions.empty() == asks.empty());
    CHECK((asks.empty() || by_ticks.actions.ends_with(" give up")));
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::run
