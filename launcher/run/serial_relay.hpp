#pragma once

#include <chrono>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/unique_fd.hpp"

namespace vmlaunch::launcher::run {

/// Carries the guest's serial port to standard output and standard input to it. An output that
/// takes nothing holds up the guest's port, never the run.
class SerialRelay {
 public:
  SerialRelay(boost::asio::io_context& io,
              base::UniqueFd serial,
              base::UniqueFd input,
              base::UniqueFd output);

  /// Stops to carry, and gives back input and output for the port of another QEMU. It must live on
  /// until what waits has woken up.
  struct Ends {
    base::UniqueFd input;
    base::UniqueFd output;
  };
  [[nodiscard]] Ends release();

  /// After QEMU's end: waits until everything it wrote has been passed on, at most `limit`.
  boost::asio::awaitable<void> drain(std::chrono::milliseconds limit);

 private:
  boost::asio::awaitable<void> carry_output();
  boost::asio::awaitable<void> carry_input();

  boost::asio::posix::stream_descriptor serial_;
  boost::asio::posix::stream_descriptor input_;
  boost::asio::posix::stream_descriptor output_;
  boost::asio::steady_timer drained_;
  bool at_end_ = false;
};

}  // namespace vmlaunch::launcher::run
