#pragma once

#include <chrono>
#include <optional>

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::run {

/// Decides what to do next to end a guest: power button (again and again: it may get lost), quit,
/// SIGTERM, SIGKILL, each after its deadline. Knows no clock; the times that it is given must rise.
class StopLadder {
 public:
  using Time = std::chrono::steady_clock::time_point;

  enum class Action { power_button, quit, terminate, kill, give_up };

  explicit StopLadder(const plan::Deadlines& deadlines) : deadlines_(deadlines) {}

  /// Somebody asks for the end. The second time it is hurried (quit), the third time forced
  /// (SIGKILL). A guest that never ran has nothing to save: then the first is hurried already.
  void request(Time now, bool guest_runs);

  /// What is due by now; each action is given out once.
  [[nodiscard]] std::optional<Action> due(Time now);

  /// When `due` will have something next; nothing while nobody asked, or after give_up.
  [[nodiscard]] std::optional<Time> next() const;

  [[nodiscard]] bool requested() const { return requests_ > 0; }
  /// The guest was not given the time that it needed, because nobody wanted to wait.
  [[nodiscard]] bool hurried() const { return requests_ > 1; }
  /// A deadline passed, not a person asked: the guest was not shut down in order.
  [[nodiscard]] bool had_to_kill() const { return had_to_kill_; }

 private:
  void move_to(Action rung, Time now);
  [[nodiscard]] base::Milliseconds patience() const;

  plan::Deadlines deadlines_;
  int requests_ = 0;
  bool had_to_kill_ = false;
  std::optional<Action> rung_;
  bool pending_ = false;  ///< the rung's action was not given out yet
  Time next_press_;
  Time deadline_;
};

}  // namespace vmlaunch::launcher::run
