#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include <boost/asio/awaitable.hpp>

#include "qmp/errors.hpp"
#include "qmp/session.hpp"

namespace vmlaunch::qmp {

class EventQueue;

/// Which events a subscriber wants. QEMU's newer events have names that no list knows, and it holds
/// back some that come often: never count events.
struct EventFilter {
  std::vector<std::string> names;  ///< none: of any name
  std::function<bool(const Event&)> predicate =
      nullptr;  ///< called from the event loop; must not throw, as handlers; not set: all
};

/// So many events were dropped here because nobody took those before them: so many as the capacity
/// of the subscription, or 16 MiB of messages.
struct Lost {
  std::uint64_t count = 0;
};

/// Events of one connection in their order, for one reader. They wait in a queue of their own, so
/// that a slow reader delays neither replies nor other readers. Ends with the connection. Belongs
/// to the thread of the connection, and may outlive the client.
class Subscription {
 public:
  /// The reason of the close comes last, and for ever.
  using Item = std::variant<Event, Lost, CloseReason>;

  explicit Subscription(std::shared_ptr<EventQueue> queue) : queue_(std::move(queue)) {}

  /// The next one; may be called again as soon as it has returned. Throws
  /// boost::system::system_error(operation_aborted) when the caller was cancelled.
  [[nodiscard]] boost::asio::awaitable<Item> next();

  /// The same, and Timeout when there is none until then.
  [[nodiscard]] boost::asio::awaitable<Item> next(std::chrono::steady_clock::time_point deadline);

 private:
  std::shared_ptr<EventQueue> queue_;
};

}  // namespace vmlaunch::qmp
