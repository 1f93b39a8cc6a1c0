#pragma once

// Internal to the library: users include qmp/events.hpp.

#include <cstddef>
#include <deque>
#include <optional>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "qmp/events.hpp"

namespace vmlaunch::qmp {

/// What waits for one subscriber: at most `capacity` events and, for those beyond, one count.
class EventQueue {
 public:
  EventQueue(const boost::asio::any_io_executor& executor,
             EventFilter filter,
             std::size_t capacity);

  /// Takes the event if it is wanted.
  void offer(const Event& event);
  /// Nothing comes after this.
  void end(const CloseReason& reason);

  [[nodiscard]] bool is_empty() const { return items_.empty() && !end_; }
  /// Not for an empty one.
  [[nodiscard]] Subscription::Item take();

  /// Expires, or is cancelled when there is something.
  [[nodiscard]] boost::asio::steady_timer& wake() { return wake_; }

 private:
  void put(Subscription::Item item);

  EventFilter filter_;
  std::size_t capacity_;
  boost::asio::steady_timer wake_;
  std::deque<Subscription::Item> items_;
  std::optional<CloseReason> end_;
};

}  // namespace vmlaunch::qmp
