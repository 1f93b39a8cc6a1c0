#include "qmp/client.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>

#include "base/duration.hpp"
#include "base/text.hpp"
#include "qmp/connection.hpp"
#include "qmp/deadlines.hpp"

namespace vmlaunch::qmp {

namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using std::chrono::milliseconds;
using SharedConnection = std::shared_ptr<Connection>;

std::string within(const Waiter& waiter) {
  return " within " + base::to_string(waiter.deadline);
}

void handshake_timed_out(Connection& connection, const Waiter& waiter) {
  if (connection.session().state() == Session::State::greeting_wait) {
    connection.fail_handshake(
        HandshakeError::Cause::no_greeting,
        "No QMP greeting" + within(waiter) + ": QEMU hangs, or another client has the monitor");
  } else {
    connection.fail_handshake(
        HandshakeError::Cause::no_answer,
        "No answer to qmp_capabilities" + within(waiter) + ": QEMU's main loop does not run");
  }
  connection.close({CloseReason::Kind::local, "the handshake timed out"});
}

asio::awaitable<void> await_handshake(SharedConnection connection, Waiter& waiter) {
  error_code error;
  if (!waiter.settled) {
    co_await waiter.timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
  }
  if (!waiter.settled && error) {
    throw boost::system::system_error(error);
  }
  if (!waiter.settled) {
    handshake_timed_out(*connection, waiter);
  }
}

asio::awaitable<Greeting> shake_hands(SharedConnection connection,
                                      milliseconds for_greeting,
                                      milliseconds for_answer) {
  Waiter& greeting = connection->begin_handshake(for_greeting);
  try {
    co_await await_handshake(connection, greeting);
    Waiter& answer = connection->await_capabilities(for_answer);
    co_await await_handshake(connection, answer);
  } catch (const boost::system::system_error&) {
    connection->close({CloseReason::Kind::local, "the handshake was cancelled"});
    throw;
  }
  co_return connection->handshake_result();
}

/// How a command goes out.
struct Sending {
  Band band = Band::in_order;
  std::vector<base::UniqueFd> fds = {};
};

/// What a look out of band asks: any QEMU that has the band has this command, and knows the answer.
constexpr const char* kProbe = "query-yank";

/// So long before a deadline, or in the middle of a short one: what it finds is to be true at the
/// deadline.
constexpr milliseconds kProbeAhead{10000};

/// A pending command as its coroutine sees it. However that ends, also by being destroyed, the
/// connection does not know of it any more.
class Call {
 public:
  Call(Connection& connection,
       const std::string& command,
       const Json& arguments,
       Sending sending,
       milliseconds deadline);
  ~Call();
  Call(const Call&) = delete;
  Call(Call&&) = delete;
  Call& operator=(const Call&) = delete;
  Call& operator=(Call&&) = delete;

  [[nodiscard]] asio::steady_timer& timer() { return waiter_.timer; }

  /// False while the wait has to go on. Throws at the deadline and when the caller was cancelled.
  [[nodiscard]] bool finished(const error_code& error);
  [[nodiscard]] Json result();

 private:
  void probe(Clock::time_point begin);
  void end_probe();
  [[noreturn]] void time_out() const;

  Connection& connection_;
  std::string command_;
  Band band_;
  Waiter waiter_;
  Clock::time_point begun_ = Clock::now();
  Id id_ = 0;
  std::optional<Waiter> probed_;  ///< once most of the deadline has passed
  Clock::time_point probed_at_;
  Id probe_id_ = 0;
};

Call::Call(Connection& connection,
           const std::string& command,
           const Json& arguments,
           Sending sending,
           milliseconds deadline)
    : connection_(connection),
      command_(base::printable(command)),
      band_(sending.band),
      waiter_(connection.executor(), deadline) {
  if (const auto& reason = connection.session().close_reason()) {
    throw Interrupted("Command " + command_ + " was not sent: " + reason->detail, *reason, false);
  }
  id_ = connection.submit(command, arguments, sending.band, std::move(sending.fds), waiter_);
}

Call::~Call() {
  connection_.detach(id_);
  end_probe();
}

bool Call::finished(const error_code& error) {
  if (waiter_.settled) {
    return true;
  }
  if (error) {
    throw boost::system::system_error(error);
  }
  const auto now = Clock::now();
  const auto begin = waiter_.written.value_or(begun_);
  const auto probe_at = begin + std::max(waiter_.deadline / 2, waiter_.deadline - kProbeAhead);
  if (now < probe_at) {
    waiter_.timer.expires_at(probe_at);
    return false;
  }
  if (now < begin + waiter_.deadline) {
    probe(begin);
    waiter_.timer.expires_at(begin + waiter_.deadline);
    return waiter_.settled;  // who is told of the probe may have closed the connection
  }
  time_out();
}

/// Once, and again when the command was written only after that.
void Call::probe(Clock::time_point begin) {
  if (band_ != Band::in_order || !connection_.session().has_oob() ||
      (probed_ && probed_at_ >= begin)) {
    return;
  }
  end_probe();
  probed_.emplace(connection_.executor(), waiter_.deadline);
  probed_at_ = Clock::now();
  probe_id_ = connection_.submit(kProbe, nullptr, Band::out_of_band, {}, *probed_);
}

void Call::end_probe() {
  if (probed_) {
    connection_.detach(probe_id_);
  }
}

void Call::time_out() const {
  const std::string what = "Command " + command_ +
                           (waiter_.written ? " was not answered"
                            : waiter_.begun ? " was not read to its end"
                                            : " could not be sent") +
                           within(waiter_);
  if (!probed_ || !probed_->written) {
    throw Timeout(what + (waiter_.written ? "" : ": QEMU does not read"),
                  Timeout::Cause::unknown,
                  waiter_.begun);
  }
  if (!probed_->settled) {
    throw Timeout(what + ": QEMU is stopped or hangs, it does not answer out of band either",
                  Timeout::Cause::silent,
                  waiter_.begun);
  }
  throw Timeout(what + ": QEMU lives, but its main loop has been busy for " +
                    base::to_string(connection_.busy()),
                Timeout::Cause::blocked,
                waiter_.begun);
}

Json Call::result() {
  if (auto* value = std::get_if<Json>(&waiter_.outcome)) {
    return std::move(*value);
  }
  if (const auto* error = std::get_if<CommandError>(&waiter_.outcome)) {
    throw CommandError(*error);
  }
  const auto& reason = std::get<CloseReason>(waiter_.outcome);
  const char* how =
      waiter_.begun ? " was interrupted, its outcome is unknown: " : " was not sent: ";
  throw Interrupted("Command " + command_ + how + reason.detail, reason, waiter_.begun);
}

asio::awaitable<Json> run_command(SharedConnection connection,
                                  std::string command,
                                  Json arguments,
                                  Sending sending,
                                  milliseconds deadline) {
  Call call(*connection, command, arguments, std::move(sending), deadline);
  error_code error;
  while (!call.finished(error)) {
    co_await call.timer().async_wait(asio::redirect_error(asio::use_awaitable, error));
  }
  co_return call.result();
}

asio::awaitable<Pulse> take_pulse(SharedConnection connection, milliseconds limit) {
  Pulse pulse;
  const std::string command = kProbe;
  const Json nothing;
  Sending sending{Band::out_of_band};
  try {
    co_await run_command(connection, command, nothing, std::move(sending), limit);
    pulse.answers = true;
  } catch (const CommandError&) {
    pulse.answers = true;
  } catch (const Timeout&) {
    // That is the finding.
  }
  pulse.busy = connection->busy();
  co_return pulse;
}

}  // namespace

Client::Client(asio::io_context& context, base::UniqueFd socket, Start start)
    : connection_(std::make_shared<Connection>(context, std::move(socket), start)) {}

Client::~Client() {
  connection_->event_handler = nullptr;
  connection_->close_handler = nullptr;
  connection_->log.to(nullptr);
  close();
}

void Client::on_event(std::function<void(const Event&)> handler) {
  connection_->event_handler = std::move(handler);
}

void Client::on_close(std::function<void(const CloseReason&)> handler) {
  connection_->close_handler = std::move(handler);
}

void Client::log_to(LogSink sink) {
  connection_->log.to(std::move(sink));
}

asio::awaitable<Greeting> Client::handshake(milliseconds for_greeting, milliseconds for_answer) {
  return shake_hands(connection_, for_greeting, for_answer);
}

asio::awaitable<Greeting> Client::handshake(milliseconds for_each) {
  return handshake(for_each, for_each);
}

asio::awaitable<Json> Client::execute(std::string command, Json arguments, milliseconds deadline) {
  return run_command(connection_, std::move(command), std::move(arguments), {}, deadline);
}

asio::awaitable<Json> Client::execute(std::string command, Json arguments) {
  const milliseconds deadline = usual_deadline(command);
  return execute(std::move(command), std::move(arguments), deadline);
}

asio::awaitable<Json> Client::execute_oob(std::string command,
                                          Json arguments,
                                          milliseconds deadline) {
  return run_command(
      connection_, std::move(command), std::move(arguments), {Band::out_of_band}, deadline);
}

asio::awaitable<Json> Client::execute_with_fds(std::string command,
                                               Json arguments,
                                               std::vector<base::UniqueFd> fds,
                                               milliseconds deadline) {
  return run_command(connection_,
                     std::move(command),
                     std::move(arguments),
                     {Band::in_order, std::move(fds)},
                     deadline);
}

asio::awaitable<Pulse> Client::probe(milliseconds limit) {
  return take_pulse(connection_, limit);
}

bool Client::has_oob() const {
  return connection_->session().has_oob();
}

Subscription Client::subscribe(EventFilter filter, std::size_t capacity) {
  return Subscription(connection_->subscribe(std::move(filter), capacity));
}

void Client::close() {
  connection_->close({CloseReason::Kind::local, "closed by this side"});
}

const Session::Counters& Client::counters() const {
  return connection_->session().counters();
}

}  // namespace vmlaunch::qmp
