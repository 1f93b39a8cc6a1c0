#include "launcher/run/stop_ladder.hpp"

#include <algorithm>

namespace vmlaunch::launcher::run {

namespace {

StopLadder::Action above(StopLadder::Action rung) {
  return static_cast<StopLadder::Action>(static_cast<int>(rung) + 1);
}

}  // namespace

base::Milliseconds StopLadder::patience() const {
  switch (*rung_) {
    case Action::power_button:
      return deadlines_.powerdown;
    case Action::quit:
      return deadlines_.quit;
    case Action::terminate:
      return deadlines_.terminate;
    case Action::kill:
    case Action::give_up:
      return deadlines_.kill;
  }
  return deadlines_.kill;
}

void StopLadder::move_to(Action rung, Time now) {
  rung_ = rung;
  pending_ = true;
  deadline_ = now + patience();
  next_press_ = now + deadlines_.powerdown_again;
}

void StopLadder::request(Time now, bool guest_runs) {
  requests_ += !guest_runs && requests_ == 0 ? 2 : 1;
  const Action wanted =
      requests_ == 1 ? Action::power_button : (requests_ == 2 ? Action::quit : Action::kill);
  if (!rung_ || *rung_ < wanted) {
    move_to(wanted, now);
  }
}

std::optional<StopLadder::Action> StopLadder::due(Time now) {
  if (!rung_) {
    return std::nullopt;
  }
  if (!pending_ && now >= deadline_ && *rung_ != Action::give_up) {
    // Who gives the guest no time does not expect it to be used.
    const bool asked = hurried() || (*rung_ == Action::power_button && patience().count() == 0);
    had_to_kill_ = had_to_kill_ || !asked;
    move_to(above(*rung_), now);
  }
  if (pending_) {
    pending_ = false;
    deadline_ = now + patience();  // counts from the deed, not from the wish
    return *rung_;
  }
  if (*rung_ == Action::power_button && now >= next_press_) {
    next_press_ = now + deadlines_.powerdown_again;
    return Action::power_button;
  }
  return std::nullopt;
}

std::optional<StopLadder::Time> StopLadder::next() const {
  if (!rung_ || (*rung_ == Action::give_up && !pending_)) {
    return std::nullopt;
  }
  if (pending_) {
    return Time::min();
  }
  return *rung_ == Action::power_button ? std::min(next_press_, deadline_) : deadline_;
}

}  // namespace vmlaunch::launcher::run
