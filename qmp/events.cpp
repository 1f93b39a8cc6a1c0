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

void EventQueue::offer(const Event& event) {
  const auto& names = filter_.names;
  const bool named =
      names.empty() || std::find(names.begin(), names.end(), event.name) != names.end();
  if (!named || (filter_.predicate && !filter_.predicate(event))) {
    return;
  }
  if (items_.size() < capacity_) {
    put(event);
  } else if (auto* lost = std::get_if<Lost>(&items_.back())) {
    ++lost->count;
  } else {
    put(Lost{1});
  }
}

void EventQueue::end(const CloseReason& reason) {
  end_ = reason;
  wake_.cancel();
}

void EventQueue::put(Subscription::Item item) {
  items_.push_back(std::move(item));
  wake_.cancel();
}

Subscription::Item EventQueue::take() {
  if (items_.empty()) {
    return *end_;
  }
  Subscription::Item item = std::move(items_.front());
  items_.pop_front();
  return item;
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
