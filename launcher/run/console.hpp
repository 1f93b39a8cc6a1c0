#pragma once

#include <chrono>
#include <memory>
#include <string>

namespace spdlog {
class logger;
}

namespace vmlaunch::launcher::run {

/// What a run tells its user, on standard error: one line each, with the seconds since the start.
/// A terminal that takes nothing (stopped, dead) loses lines and never holds the run up.
class Console {
 public:
  Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;
  ~Console();

  void say(const std::string& text);
  void warn(const std::string& text);
  void fail(const std::string& text);

 private:
  [[nodiscard]] std::string stamp() const;

  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace vmlaunch::launcher::run
