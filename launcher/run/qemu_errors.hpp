#pragma once

#include <chrono>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/unique_fd.hpp"
#include "launcher/run/console.hpp"

namespace vmlaunch::launcher::run {

/// QEMU's standard error: shown line by line, and its end kept for the error that it explains.
class QemuErrors {
 public:
  QemuErrors(boost::asio::io_context& io, base::UniqueFd pipe, Console& console);

  /// After QEMU's end: waits for the rest, at most `limit`.
  boost::asio::awaitable<void> drain(std::chrono::milliseconds limit);

  /// The last lines that QEMU wrote.
  [[nodiscard]] std::string tail() const;

 private:
  boost::asio::awaitable<void> read();
  void take_lines();

  Console& console_;
  boost::asio::posix::stream_descriptor pipe_;
  boost::asio::steady_timer drained_;
  std::string partial_;
  std::vector<std::string> tail_;
  std::size_t shown_ = 0;
  bool at_end_ = false;
};

}  // namespace vmlaunch::launcher::run
