#pragma once

// Internal to the library: users include qmp/events.hpp.

#include <cstddef>
#include <deque>
#include <optional>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "qmp/events.hpp"

namespace vmlaunch::qmp {

/// What waits for one subscriber: at most `capacity` events of at most kByteLimit together, and
/// counts of those beyond.
class EventQueue {
 public:
  EventQueue(const boost::asio::any_io_executor& executor,
             EventFilter filter,
             std::size_t capacity);

  /// Of the texts of the events. One that is longer by itself is taken when no other waits.
  static constexpr std::size_t kByteLimit = std::size_t{16} * 1024 * 1024;

  /// Takes the event if it is wanted; `bytes` is the length of its message.
  void offer(const Event& event, std::size_t bytes);
  /// Nothing comes after this.
  void end(const CloseReason& reason);

  [[nodiscard]] bool is_empty() const { return entries_.empty() && !end_; }
  /// Not for an empty one.
  [[nodiscard]] Subscription::Item take();

  /// Expires, or is cancelled when there is something.
  [[nodiscard]] boost::asio::steady_timer& wake() { return wake_; }

 private:
  struct Entry {
    Subscription::Item item;
    std::size_t bytes = 0;
  };

  [[nodiscard]] bool wants(const Event& event) const;
  [[nodiscard]] bool has_room(std::size_t bytes) const;
  void put(Subscription::Item item, std::size_t bytes);

  EventFilter filter_;
  std::size_t capacity_;
  boost::asio::steady_timer wake_;
  std::deque<Entry> entries_;
  std::size_t bytes_ = 0;  // of all entries
  std::optional<CloseReason> end_;
};

}  // namespace vmlaunch::qmp
