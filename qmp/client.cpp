#include "qmp/client.hpp"

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

asio::awaitable<Greeting> shake_hands(SharedConnection connection, milliseconds deadline) {
  Waiter& waiter = connection->begin_handshake(deadline);
  error_code error;
  if (!waiter.settled) {
    co_await waiter.timer.async_wait(asio::redirect_error(asio::use_awaitable, error));
  }
  if (!waiter.settled && error) {
    connection->close({CloseReason::Kind::local, "the handshake was cancelled"});
    throw boost::system::system_error(error);
  }
  if (!waiter.settled) {
    handshake_timed_out(*connection, waiter);
  }
  co_return connection->handshake_result();
}

/// How a command is sent.
struct Manner {
  Band band = Band::in_order;
  std::vector<base::UniqueFd> fds = {};
};

/// What a look out of band asks: any QEMU that has the band has this command, and knows the answer.
constexpr const char* kProbe = "query-yank";

/// A pending command as its coroutine sees it. However that ends, also by being destroyed, the
/// connection does not know of it any more.
class Call {
 public:
  Call(Connection& connection,
       const std::string& command,
       const Json& arguments,
       Manner manner,
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
  void probe();
  [[noreturn]] void time_out() const;

  Connection& connection_;
  std::string command_;
  Band band_;
  Waiter waiter_;
  Clock::time_point begun_ = Clock::now();
  Id id_ = 0;
  std::optional<Waiter> probed_;  ///< once half the deadline has passed
  Id probe_id_ = 0;
};

Call::Call(Connection& connection,
           const std::string& command,
           const Json& arguments,
           Manner manner,
           milliseconds deadline)
    : connection_(connection),
      command_(base::printable(command)),
      band_(manner.band),
      waiter_(connection.executor(), deadline) {
  if (const auto& reason = connection.session().close_reason()) {
    throw Interrupted("Command " + command_ + " was not sent: " + reason->detail, *reason);
  }
  id_ = connection.submit(command, arguments, manner.band, std::move(manner.fds), waiter_);
  waiter_.timer.expires_at(begun_ + waiter_.deadline / 2);
}

Call::~Call() {
  connection_.detach(id_);
  if (probed_) {
    connection_.detach(probe_id_);
  }
}

bool Call::finished(const error_code& error) {
  if (waiter_.settled) {
    return true;
  }
  if (error) {
    throw boost::system::system_error(error);
  }
  const auto now = Clock::now();
  const auto begin = waiter_.sent.value_or(begun_);
  if (now < begin + waiter_.deadline / 2) {  // it was written after the wait had begun
    waiter_.timer.expires_at(begin + waiter_.deadline / 2);
    return false;
  }
  if (now < begin + waiter_.deadline) {
    probe();
    waiter_.timer.expires_at(begin + waiter_.deadline);
    return false;
  }
  time_out();
}

void Call::probe() {
  if (!probed_ && band_ == Band::in_order && connection_.session().has_oob()) {
    probed_.emplace(connection_.executor(), waiter_.deadline);
    probe_id_ = connection_.submit(kProbe, nullptr, Band::out_of_band, {}, *probed_);
  }
}

void Call::time_out() const {
  const std::string what = "Command " + command_ +
                           (waiter_.sent ? " was not answered" : " could not be sent") +
                           within(waiter_);
  if (!probed_) {
    throw Timeout(what + (waiter_.sent ? "" : ": QEMU does not read"), Timeout::Cause::unknown);
  }
  if (!probed_->settled) {
    throw Timeout(what + ": QEMU is stopped or hangs, it does not answer out of band either",
                  Timeout::Cause::silent);
  }
  throw Timeout(what + ": QEMU lives, but its main loop has been busy for " +
                    base::to_string(connection_.busy()),
                Timeout::Cause::blocked);
}

Json Call::result() {
  if (auto* value = std::get_if<Json>(&waiter_.outcome)) {
    return std::move(*value);
  }
  if (const auto* error = std::get_if<CommandError>(&waiter_.outcome)) {
    throw CommandError(*error);
  }
  const auto& reason = std::get<CloseReason>(waiter_.outcome);
  throw Interrupted(
      "Command " + command_ + " was interrupted, its outcome is unknown: " + reason.detail, reason);
}

asio::awaitable<Json> run_command(SharedConnection connection,
                                  std::string command,
                                  Json arguments,
                                  Manner manner,
                                  milliseconds deadline) {
  Call call(*connection, command, arguments, std::move(manner), deadline);
  error_code error;
  do {
    co_await call.timer().async_wait(asio::redirect_error(asio::use_awaitable, error));
  } while (!call.finished(error));
  co_return call.result();
}

asio::awaitable<Pulse> take_pulse(SharedConnection connection, milliseconds limit) {
  Pulse pulse;
  const std::string command = kProbe;
  const Json nothing;
  Manner manner{Band::out_of_band};
  try {
    co_await run_command(connection, command, nothing, std::move(manner), limit);
    pulse.answers = true;
  } catch (const CommandError&) {
    pulse.answers = true;
  } catch (const Timeout&) {
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

asio::awaitable<Greeting> Client::handshake(milliseconds deadline) {
  return shake_hands(connection_, deadline);
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
