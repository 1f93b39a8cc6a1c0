#include "qmp/connection.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "qmp/deadlines.hpp"

namespace vmlaunch::qmp {

namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::milliseconds;

constexpr std::size_t kShownBytes = 64;

CloseReason reason_of(const error_code& error) {
  if (error == asio::error::eof) {
    return {CloseReason::Kind::eof, "QEMU closed the connection"};
  }
  return {CloseReason::Kind::reset, "the connection broke (" + error.message() + ")"};
}

/// The kernel would refuse these only when the command goes out, and with it the connection.
void check_descriptors(const std::string& command, const std::vector<base::UniqueFd>& fds) {
  constexpr std::size_t kMost = 253;  // SCM_MAX_FD
  const bool all_open = std::all_of(fds.begin(), fds.end(), [](const base::UniqueFd& fd) {
    return ::fcntl(fd.get(), F_GETFD) >= 0;
  });
  if (!all_open || fds.size() > kMost) {
    throw std::invalid_argument("Cannot send command " + base::printable(command) + ": " +
                                (all_open ? "too many descriptors" : "a descriptor is not open"));
  }
}

}  // namespace

Waiter::Waiter(const asio::any_io_executor& executor, milliseconds limit)
    : timer(executor), deadline(clamp_deadline(limit)) {}

void Waiter::wake() {
  settled = true;
  timer.cancel();
}

Connection::Connection(asio::io_context& context, base::UniqueFd socket, Start start)
    : socket_(context),
      session_(start),
      framer_(start == Start::take_over ? Framer::Start::mid_stream : Framer::Start::at_message) {
  base::set_nonblocking(socket.get());
  base::check(::fcntl(socket.get(), F_SETFD, FD_CLOEXEC), "make a descriptor close-on-exec");
  socket_.assign(asio::local::stream_protocol(), socket.get());
  static_cast<void>(socket.release());
}

void Connection::spawn(asio::awaitable<void> coroutine) {
  auto finish = [self = shared_from_this()](const std::exception_ptr& failure) {
    if (failure != nullptr) {
      self->close({CloseReason::Kind::local, "a handler failed"});
      std::rethrow_exception(failure);
    }
  };
  asio::co_spawn(executor(), std::move(coroutine), std::move(finish));
}

Waiter& Connection::begin_handshake(milliseconds limit) {
  if (handshake_) {
    throw std::logic_error("A QMP connection shakes hands only once");
  }
  handshake_.emplace(executor(), limit);
  handshake_->timer.expires_after(handshake_->deadline);
  if (session_.close_reason()) {
    fail_handshake(HandshakeError::Cause::closed,
                   "The QMP handshake came too late: " + session_.close_reason()->detail);
    return *handshake_;
  }
  spawn(read(shared_from_this()));
  if (session_.state() == Session::State::negotiating) {
    greet({});
  }
  return *handshake_;
}

Waiter& Connection::await_capabilities(milliseconds limit) {
  if (!usable_ && !handshake_failure_) {
    handshake_->settled = false;
    handshake_->deadline = clamp_deadline(limit);
    handshake_->timer.expires_after(handshake_->deadline);
  }
  return *handshake_;
}

void Connection::fail_handshake(HandshakeError::Cause cause, const std::string& text) {
  if (handshake_ && !usable_ && !handshake_failure_) {
    handshake_failure_.emplace(cause, text);
    handshake_->wake();
  }
}

Greeting Connection::handshake_result() const {
  if (handshake_failure_) {
    throw HandshakeError(*handshake_failure_);
  }
  return greeting_;
}

asio::awaitable<void> Connection::read(std::shared_ptr<Connection> self) {
  const auto space = asio::buffer(self->read_buffer_);
  error_code error;
  while (self->socket_.is_open()) {
    auto got = co_await self->socket_.async_read_some(
        space, asio::redirect_error(asio::use_awaitable, error));
    // The kernel reports a reset behind all that QEMU had sent before it, so nothing is lost here.
    if (error) {
      self->end_of_stream(reason_of(error));
    } else {
      self->take(std::string_view(self->read_buffer_.data(), got));
    }
  }
}

void Connection::take(std::string_view bytes) {
  first_bytes_ += bytes.substr(0, kShownBytes - first_bytes_.size());
  framer_.feed(bytes);
  while (const auto text = next_message()) {
    log.received(*text);
    dispatch(session_.receive(*text), text->size());
  }
  note_work();
  send_queued();
}

/// The next one that came; nothing also when the connection is closed, by a handler or for what
/// came: the rest of the input is nobody's then.
std::optional<std::string> Connection::next_message() {
  if (session_.state() == Session::State::closed) {
    return std::nullopt;
  }
  try {
    auto text = framer_.next();
    if (session_.state() == Session::State::greeting_wait && framer_.skipped() > 0) {
      throw ProtocolError("The peer does not speak QMP (first bytes \"" +
                          base::printable(first_bytes_) + "\")");
    }
    return text;
  } catch (const ProtocolError& error) {
    fail_handshake(HandshakeError::Cause::not_qmp, error.what());
    close({CloseReason::Kind::protocol, error.what()});
    return std::nullopt;
  }
}

void Connection::dispatch(Message message, std::size_t bytes) {
  if (const auto* event = std::get_if<Event>(&message)) {
    publish(*event, bytes);
  } else if (auto* reply = std::get_if<Reply>(&message)) {
    settle(std::move(*reply));
  } else if (auto* greeting = std::get_if<Greeting>(&message)) {
    greet(std::move(*greeting));
  } else if (std::holds_alternative<Negotiated>(message)) {
    usable_ = true;
    handshake_->wake();
  }
}

/// After a take-over one greeting is made up, and a true one may follow.
void Connection::greet(Greeting greeting) {
  greeting_ = std::move(greeting);
  if (!std::exchange(opened_, true)) {
    send({std::nullopt, session_.opening()}, Band::out_of_band);
    handshake_->wake();
  }
}

void Connection::publish(const Event& event, std::size_t bytes) {
  // A copy, because a predicate may subscribe.
  const auto subscribers = subscribers_;
  for (const auto& subscriber : subscribers) {
    if (const auto queue = subscriber.lock()) {
      queue->offer(event, bytes);
    }
  }
  // A copy, because the handler may destroy the client and thereby itself.
  if (const auto handler = event_handler) {
    handler(event);
  }
}

std::shared_ptr<EventQueue> Connection::subscribe(EventFilter filter, std::size_t capacity) {
  auto queue = std::make_shared<EventQueue>(executor(), std::move(filter), capacity);
  if (const auto& reason = session_.close_reason()) {
    queue->end(*reason);
  } else {
    std::erase_if(subscribers_, [](const auto& one) { return one.expired(); });
    subscribers_.push_back(queue);
  }
  return queue;
}

void Connection::settle(Reply reply) {
  auto* error = std::get_if<CommandError>(&reply.outcome);
  const auto found = waiters_.find(reply.id);
  if (found == waiters_.end()) {
    // Only qmp_capabilities has no waiter here, and of its replies only a refusal comes here.
    const std::string cause = error != nullptr ? error->what() : "";
    fail_handshake(HandshakeError::Cause::refused, cause);
    close({CloseReason::Kind::protocol, cause});
    return;
  }
  Waiter& waiter = *found->second;
  waiters_.erase(found);
  if (error != nullptr) {
    waiter.outcome.emplace<CommandError>(std::move(*error));
  } else {
    waiter.outcome.emplace<Json>(std::move(std::get<Json>(reply.outcome)));
  }
  waiter.wake();
}

void Connection::end_of_stream(const CloseReason& reason) {
  const bool greeted = session_.state() != Session::State::greeting_wait;
  const std::string missing = greeted ? "the answer to qmp_capabilities" : "the greeting";
  fail_handshake(
      HandshakeError::Cause::closed,
      "The QMP handshake ended before " + missing + ": " + write_failure_.value_or(reason).detail);
  close(reason);
}

void Connection::close(const CloseReason& cause) {
  if (session_.state() == Session::State::closed) {
    return;
  }
  const CloseReason reason = write_failure_.value_or(cause);  // the first
  fail_handshake(HandshakeError::Cause::closed, "The QMP handshake ended: " + reason.detail);
  for (const Id id : session_.close(reason)) {
    Waiter& waiter = *waiters_.at(id);
    waiter.outcome.emplace<CloseReason>(reason);
    waiter.wake();
  }
  waiters_.clear();
  for (const auto& subscriber : subscribers_) {
    if (const auto queue = subscriber.lock()) {
      queue->end(reason);
    }
  }
  urgent_.clear();
  ordered_.clear();
  error_code ignored;
  socket_.close(ignored);
  // Not from here, so that a handler never runs inside a call of its own.
  asio::post(executor(), [self = shared_from_this()] {
    if (const auto handler = self->close_handler) {
      handler(*self->session_.close_reason());
    }
  });
}

Id Connection::submit(const std::string& command,
                      const Json& arguments,
                      Band band,
                      std::vector<base::UniqueFd> fds,
                      Waiter& waiter) {
  check_descriptors(command, fds);
  Session::Command encoded = session_.encode(command, arguments, {band, !fds.empty()});
  waiters_.emplace(encoded.id, &waiter);
  waiter.deadline += deadline_of_bytes(encoded.bytes.size());
  try {
    send({encoded.id, std::move(encoded.bytes), std::move(fds)}, band);
  } catch (...) {
    detach(encoded.id);  // the caller and its waiter are gone in a moment
    throw;
  }
  return encoded.id;
}

void Connection::detach(Id id) {
  if (waiters_.erase(id) == 0) {
    return;
  }
  const auto unsent = [id](const Outgoing& entry) { return entry.id == id && entry.sent == 0; };
  if (std::erase_if(urgent_, unsent) + std::erase_if(ordered_, unsent) > 0) {
    session_.withdraw(id);
    send_queued();  // those behind it need not wait any longer
  } else {
    session_.abandon(id);
  }
}

void Connection::send(Outgoing command, Band band) {
  (band == Band::in_order ? ordered_ : urgent_).push_back(std::move(command));
  // Usually all goes into the socket at once, which saves a turn of the event loop per command.
  send_queued();
}

/// The queue whose first command it is: one that was begun is gone on with.
std::deque<Connection::Outgoing>* Connection::next_to_send() {
  for (auto* queue : {&urgent_, &ordered_}) {
    if (!queue->empty() && queue->front().sent > 0) {
      return queue;
    }
  }
  if (!urgent_.empty()) {
    return &urgent_;
  }
  return !ordered_.empty() && session_.may_send(*ordered_.front().id) ? &ordered_ : nullptr;
}

// Runs only while the socket is full. What was begun is continued here alone, out of reach of any
// caller's deadline or cancellation: half a command would swallow the one behind it.
asio::awaitable<void> Connection::write(std::shared_ptr<Connection> self) {
  error_code error;
  co_await self->socket_.async_wait(Socket::wait_write,
                                    asio::redirect_error(asio::use_awaitable, error));
  self->writer_runs_ = false;
  if (!error) {
    self->send_queued();
  }
}

/// Descriptors go with the first byte: QEMU takes them with whatever command it reads then.
ssize_t Connection::send_some(const Outgoing& command) {
  iovec bytes{};
  // sendmsg(2) does not write to it.
  bytes.iov_base = const_cast<char*>(command.bytes.data() + command.sent);
  bytes.iov_len = command.bytes.size() - command.sent;
  msghdr message{};
  message.msg_iov = &bytes;
  message.msg_iovlen = 1;
  std::vector<char> control;
  if (command.sent == 0 && !command.fds.empty()) {
    const std::size_t size = command.fds.size() * sizeof(int);
    control.resize(CMSG_SPACE(size));
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    for (std::size_t i = 0; i < command.fds.size(); ++i) {
      const int fd = command.fds[i].get();
      std::memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof fd);
    }
  }
  return ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void Connection::send_queued() {
  while (!writer_runs_ && !write_failure_) {
    auto* const next = next_to_send();
    if (next == nullptr) {
      return;  // the next reply makes room
    }
    const ssize_t sent = send_some(next->front());
    if (sent < 0 && errno == EAGAIN) {
      writer_runs_ = true;
      spawn(write(shared_from_this()));
    } else if (sent < 0 && errno != EINTR) {
      writing_failed(errno);
    } else if (sent > 0) {
      note_progress(*next, static_cast<std::size_t>(sent));
    }
  }
}

void Connection::note_begun(Outgoing& command) {
  if (command.id) {
    session_.note_sent(*command.id);
    note_work();
    command.fds.clear();
  }
  const auto waiter = waiters_.find(command.id.value_or(0));
  if (waiter != waiters_.end()) {
    waiter->second->begun = true;
  }
}

void Connection::note_progress(std::deque<Outgoing>& queue, std::size_t sent) {
  Outgoing& command = queue.front();
  const bool begins = command.sent == 0;
  // A copy, because who listens may end the connection or send a command.
  const std::string shown = begins && log ? command.bytes : "";
  if (begins) {
    note_begun(command);
  }
  command.sent += sent;
  if (command.sent == command.bytes.size()) {
    note_written(command.id);
    queue.pop_front();
  }
  if (!shown.empty()) {
    log.sent(shown);
  }
}

void Connection::note_written(std::optional<Id> id) {
  const auto waiter = waiters_.find(id.value_or(0));
  if (waiter != waiters_.end()) {
    waiter->second->written = Clock::now();
  }
  if (id && id == work_) {
    work_begun_ = Clock::now();  // until then QEMU has only read
  }
}

void Connection::note_work() {
  const std::optional<Id> work = session_.at_work();
  if (work != work_) {
    work_ = work;
    work_begun_ = Clock::now();
  }
}

milliseconds Connection::busy() const {
  return work_ ? std::chrono::duration_cast<milliseconds>(Clock::now() - work_begun_)
               : milliseconds(0);
}

// What QEMU had sent before can still be read, and it is the reader that closes. The shutdown makes
// sure that it comes to an end.
void Connection::writing_failed(int error) {
  write_failure_ = reason_of(error_code(error, boost::system::system_category()));
  error_code ignored;
  socket_.shutdown(Socket::shutdown_both, ignored);
}

}  // namespace vmlaunch::qmp
