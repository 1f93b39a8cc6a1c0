#include "qmp/events.hpp"

#include <algorithm>
#include <utility>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include "qmp/event_queue.hpp"

namespace vmlaunch::qmp {

namespace asio = boost::asio;
using TimePoint = std::chrono::steady_clock::time_point;

EventQueue::EventQueue(const asio::any_io_executor& executor,
                       EventFilter filter,
                       std::size_t capacity)
    : filter_(std::move(filter)), capacity_(std::max<std::size_t>(capacity, 1)), wake_(executor) {}

bool EventQueue::wants(const Event& event) const {
  const auto& names = filter_.names;
  const bool named =
      names.empty() || std::find(names.begin(), names.end(), event.name) != names.end();
  return named && (!filter_.predicate || filter_.predicate(event));
}

bool EventQueue::has_room(std::size_t bytes) const {
  return entries_.size() < capacity_ && (bytes_ == 0 || bytes_ + bytes <= kByteLimit);
}

void EventQueue::offer(const Event& event, std::size_t bytes) {
  if (!wants(event)) {
    return;
  }
  auto* lost = entries_.empty() ? nullptr : std::get_if<Lost>(&entries_.back().item);
  if (has_room(bytes)) {
    put(event, bytes);
  } else if (lost != nullptr) {
    ++lost->count;
  } else {
    put(Lost{1}, 0);
  }
}

void EventQueue::end(const CloseReason& reason) {
  end_ = reason;
  wake_.cancel();
}

void EventQueue::put(Subscription::Item item, std::size_t bytes) {
  entries_.push_back({std::move(item), bytes});
  bytes_ += bytes;
  wake_.cancel();
}

Subscription::Item EventQueue::take() {
  if (entries_.empty()) {
    return *end_;
  }
  Entry entry = std::move(entries_.front());
  entries_.pop_front();
  bytes_ -= entry.bytes;
  return std::move(entry.item);
}

namespace {

/// Holds the queue by itself: the subscription may be gone before the reader wakes up.
asio::awaitable<Subscription::Item> take_next(std::shared_ptr<EventQueue> queue,
                                              TimePoint deadline) {
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  if (queue->is_empty()) {
    queue->wake().expires_at(deadline);
    co_await queue->wake().async_wait(token);
  }
  if (!queue->is_empty()) {
    co_return queue->take();
  }
  if (error) {
    throw boost::system::system_error(error);
  }
  throw Timeout("No event came until the deadline", Timeout::Cause::unknown, false);
}

}  // namespace

asio::awaitable<Subscription::Item> Subscription::next() {
  return take_next(queue_, TimePoint::max());
}

asio::awaitable<Subscription::Item> Subscription::next(TimePoint deadline) {
  return take_next(queue_, deadline);
}

}  // namespace vmlaunch::qmp
