#include "launcher/run/qemu_errors.hpp"

#include <array>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/text.hpp"

namespace vmlaunch::launcher::run {

namespace asio = boost::asio;

namespace {

constexpr std::size_t kTailLines = 20;
constexpr std::size_t kLineLimit = 1000;
/// A QEMU that complains about every request of its guest must not fill the terminal for days.
constexpr std::size_t kShownLines = 1000;

}  // namespace

QemuErrors::QemuErrors(asio::io_context& io, base::UniqueFd pipe, Console& console)
    : console_(console), pipe_(io, pipe.release()), drained_(io) {
  // Detached: it ends with the pipe, and `drain` waits for that.
  asio::co_spawn(io, read(), asio::detached);
}

void QemuErrors::take_lines() {
  for (std::size_t end = partial_.find('\n');
       end != std::string::npos || partial_.size() > kLineLimit;
       end = partial_.find('\n')) {
    const std::string line = partial_.substr(0, std::min(end, kLineLimit));
    partial_.erase(0, end <= kLineLimit ? end + 1 : kLineLimit);
    if (shown_++ < kShownLines) {
      console_.say("qemu: " + line);
    } else if (shown_ == kShownLines + 1) {
      console_.warn("QEMU says more than " + std::to_string(kShownLines) +
                    " lines; no more are shown");
    }
    tail_.push_back(line);
    if (tail_.size() > kTailLines) {
      tail_.erase(tail_.begin());
    }
  }
}

asio::awaitable<void> QemuErrors::read() {
  std::array<char, 4096> buffer{};
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  while (!error) {
    const std::size_t got = co_await pipe_.async_read_some(asio::buffer(buffer), token);
    partial_.append(buffer.data(), got);
    take_lines();
  }
  if (!partial_.empty()) {
    partial_ += '\n';
    take_lines();
  }
  at_end_ = true;
  drained_.cancel();
}

asio::awaitable<void> QemuErrors::drain(std::chrono::milliseconds limit) {
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  drained_.expires_after(limit);
  if (!at_end_) {
    co_await drained_.async_wait(token);
  }
}

std::string QemuErrors::tail() const {
  return base::join(tail_, "\n");
}

}  // namespace vmlaunch::launcher::run
