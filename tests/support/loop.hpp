#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "tests/support/catch.hpp"

namespace vmlaunch::qmp::tests {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// More than anything takes that does not hang.
constexpr auto kLong = std::chrono::milliseconds(30s);

template <typename T>
struct Outcome {
  bool done = false;
  std::exception_ptr error;
  T value;

  T get() const {
    REQUIRE(done);
    if (error) {
      std::rethrow_exception(error);
    }
    return value;
  }
};

/// An event loop that a test turns by hand, so that it always comes back.
class Loop {
 public:
  template <typename T>
  std::shared_ptr<Outcome<T>> start(asio::awaitable<T> call, asio::cancellation_slot slot = {}) {
    auto outcome = std::make_shared<Outcome<T>>();
    auto finish = [outcome](const std::exception_ptr& error, T value) {
      outcome->done = true;
      outcome->error = error;
      outcome->value = std::move(value);
    };
    asio::co_spawn(context, std::move(call), asio::bind_cancellation_slot(slot, finish));
    return outcome;
  }

  std::shared_ptr<Outcome<bool>> start(asio::awaitable<void> call) {
    auto outcome = std::make_shared<Outcome<bool>>();
    asio::co_spawn(context, std::move(call), [outcome](const std::exception_ptr& error) {
      outcome->done = true;
      outcome->error = error;
    });
    return outcome;
  }

  void until(const std::function<bool()>& condition) {
    const auto limit = Clock::now() + kLong;
    while (!condition()) {
      REQUIRE(Clock::now() < limit);
      context.restart();
      context.run_one_for(10ms);
    }
  }

  template <typename T>
  T finish(const std::shared_ptr<Outcome<T>>& outcome) {
    until([&] { return outcome->done; });
    return outcome->get();
  }

  /// Lets the client handle all that it can without more input.
  void settle() {
    context.restart();
    context.poll();
  }

  asio::io_context context;
};

}  // namespace vmlaunch::qmp::tests
