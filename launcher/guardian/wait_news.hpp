#pragma once

#include <chrono>
#include <string>

namespace vmlaunch::launcher::guardian {

/// Which words of one step that waits go to the supervisor: new ones at once, and the same again
/// after a while, since a supervisor that hears nothing for long takes the guardian for stuck.
class WaitNews {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kAgain{10};

  /// Notes them as passed on if they are to be.
  [[nodiscard]] bool pass(const std::string& text, Clock::time_point now) {
    if (text == text_ && now < again_) {
      return false;
    }
    text_ = text;
    again_ = now + kAgain;
    return true;
  }

 private:
  std::string text_;
  Clock::time_point again_;
};

}  // namespace vmlaunch::launcher::guardian
