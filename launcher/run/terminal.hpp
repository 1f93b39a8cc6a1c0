#pragma once

#include <termios.h>

#include <optional>

#include "base/unique_fd.hpp"

namespace vmlaunch::launcher::run {

/// Standard input and output as the guest's serial port uses them: opened anew, so that making them
/// non-blocking does not change the descriptors that the shell shares with us. While it lives, keys
/// go to the guest one by one and unechoed; Ctrl-C and its kin still come as signals.
class Terminal {
 public:
  /// Must be made before privileges are dropped: afterwards our own terminal may be closed to us.
  Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal();

  [[nodiscard]] base::UniqueFd take_input() { return std::move(input_); }
  [[nodiscard]] base::UniqueFd take_output() { return std::move(output_); }

  /// Hands the keyboard to the guest, if standard input is a terminal and ours to read.
  void give_keyboard();

 private:
  base::UniqueFd input_;
  base::UniqueFd output_;
  std::optional<termios> saved_;
};

}  // namespace vmlaunch::launcher::run
