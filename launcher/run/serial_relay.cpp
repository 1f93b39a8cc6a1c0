#include "launcher/run/serial_relay.hpp"

#include <array>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

namespace vmlaunch::launcher::run {

namespace asio = boost::asio;

SerialRelay::SerialRelay(asio::io_context& io,
                         base::UniqueFd serial,
                         base::UniqueFd input,
                         base::UniqueFd output)
    : serial_(io, serial.release()), input_(io), output_(io), drained_(io) {
  if (output) {
    output_.assign(output.release());
  }
  // Detached: each ends with its source, and `drain` waits for what matters.
  asio::co_spawn(io, carry_output(), asio::detached);
  if (input) {
    input_.assign(input.release());
    asio::co_spawn(io, carry_input(), asio::detached);
  }
}

asio::awaitable<void> SerialRelay::carry_output() {
  std::array<char, 4096> buffer{};
  boost::system::error_code error;
  boost::system::error_code lost;
  auto reading = asio::redirect_error(asio::use_awaitable, error);
  auto writing = asio::redirect_error(asio::use_awaitable, lost);
  while (!error) {
    const std::size_t got = co_await serial_.async_read_some(asio::buffer(buffer), reading);
    if (got > 0 && output_.is_open() && !lost) {
      co_await asio::async_write(output_, asio::buffer(buffer.data(), got), writing);
    }
  }
  at_end_ = true;
  drained_.cancel();
}

asio::awaitable<void> SerialRelay::carry_input() {
  std::array<char, 256> buffer{};
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  while (!error) {
    const std::size_t got = co_await input_.async_read_some(asio::buffer(buffer), token);
    if (!error) {
      co_await asio::async_write(serial_, asio::buffer(buffer.data(), got), token);
    }
  }
}

SerialRelay::Ends SerialRelay::release() {
  serial_.close();
  Ends ends;
  if (input_.is_open()) {
    ends.input.reset(input_.release());
  }
  if (output_.is_open()) {
    ends.output.reset(output_.release());
  }
  return ends;
}

asio::awaitable<void> SerialRelay::drain(std::chrono::milliseconds limit) {
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  drained_.expires_after(limit);
  if (!at_end_) {
    co_await drained_.async_wait(token);
  }
}

}  // namespace vmlaunch::launcher::run
