#include "launcher/run/console.hpp"

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cstdio>

#include <spdlog/details/null_mutex.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/base_sink.h>

#include "base/text.hpp"

namespace vmlaunch::launcher::run {

namespace {

/// A pipe or terminal takes at least this much at once when it says that it can be written.
constexpr std::size_t kAtomicWrite = 4096;

/// How long one line may wait for a slow terminal.
constexpr int kPatienceMs = 200;

class StandardErrorSink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    std::string_view left(line.data(), line.size());
    while (!left.empty() && writable()) {
      const ssize_t written =
          ::write(STDERR_FILENO, left.data(), std::min(left.size(), kAtomicWrite));
      if (written <= 0) {
        return;
      }
      left.remove_prefix(static_cast<std::size_t>(written));
    }
  }

  void flush_() override {}

 private:
  /// Once a line was lost the next ones wait no more: a dead terminal must cost nothing.
  bool writable() {
    pollfd standard_error{STDERR_FILENO, POLLOUT, 0};
    const bool ready = ::poll(&standard_error, 1, stalled_ ? 0 : kPatienceMs) == 1 &&
                       (standard_error.revents & POLLOUT) != 0;
    stalled_ = !ready;
    return ready;
  }

  bool stalled_ = false;
};

}  // namespace

Console::Console()
    : logger_(std::make_shared<spdlog::logger>("vmlaunch", std::make_shared<StandardErrorSink>())) {
  logger_->set_pattern("%v");
}

Console::~Console() = default;

std::string Console::stamp() const {
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
  std::array<char, 32> text{};
  static_cast<void>(std::snprintf(text.data(), text.size(), "[%7.3fs] ", elapsed.count()));
  return text.data();
}

void Console::say(const std::string& text) {
  logger_->info(stamp() + base::printable(text));
}

void Console::warn(const std::string& text) {
  logger_->warn(stamp() + "warning: " + base::printable(text));
}

void Console::fail(const std::string& text) {
  logger_->error(stamp() + "error: " + base::printable(text));
}

}  // namespace vmlaunch::launcher::run
