#include "launcher/run/guardian_link.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/file.hpp"
#include "launcher/guardian/guardian.hpp"
#include "launcher/run/guardian_unit.hpp"
#include "launcher/run/rescuer.hpp"

namespace vmlaunch::launcher::run {

namespace asio = boost::asio;

namespace {

/// For what the guardian has to undo; each wait of its own is shorter.
constexpr std::chrono::seconds kGuardianEnd{30};

/// For systemd to start a program.
constexpr std::chrono::seconds kUnitStart{10};

/// For the guardian to put back first what earlier runs have left.
constexpr std::chrono::minutes kBeginDeadline{10};

/// Throws what the guardian refused.
guardian::Reply accepted(guardian::Reply reply) {
  if (const auto* refused = std::get_if<guardian::Refused>(&reply)) {
    throw Failure(refused->code, refused->message);
  }
  return reply;
}

bool is_gone(const std::system_error& error) {
  return error.code().value() == EPIPE || error.code().value() == ECONNRESET;
}

[[noreturn]] void fail_silent() {
  throw Failure(ExitCode::stuck,
                "The guardian does not answer: it waits for the kernel; type: ps -o "
                "pid,stat,wchan,args -C vmlaunch");
}

}  // namespace

GuardianProcess::GuardianProcess(const Identity& identity, Kind kind) {
  if (kind == Kind::keeper && can_start_unit(identity)) {
    try {
      start_unit(identity);
      return;
    } catch (const std::exception& error) {
      complaint_ = std::string("the guardian is no unit of systemd (") + error.what() +
                   "): should it be killed, type: vmlaunch recover";
    }
  }
  fork(identity);
}

void GuardianProcess::start_unit(const Identity& identity) {
  auto ends = base::make_socket_pair(SOCK_SEQPACKET);
  start_guardian_unit(identity, ends.second.get());
  ends.second.reset();
  control_ = std::move(ends.first);
  // That systemd took it does not say that it lives.
  send(guardian::Status{}, {});
  base::Packet answer = receive(kUnitStart);
  if (answer.fds.size() != 1) {
    throw std::system_error(EPROTO, std::generic_category(), "greet the guardian");
  }
  unit_ = std::move(answer.fds.front());
}

void GuardianProcess::fork(const Identity& identity) {
  auto ends = base::make_socket_pair(SOCK_SEQPACKET);
  base::Child child = base::fork_child("the guardian");
  if (child.pid == 0) {
    ends.first.reset();
    ::_exit(guardian::run(std::move(ends.second), identity, run_rescuer));
  }
  child_ = std::move(child.pidfd);
  control_ = std::move(ends.first);
}

GuardianProcess::~GuardianProcess() {
  control_.reset();
  try {
    static_cast<void>(await_end());
  } catch (const std::system_error&) {
    // Somebody else reaped it: it has ended all the same.
  }
}

bool GuardianProcess::await_end() {
  if (child_ && base::reap_within(child_.get(), kGuardianEnd)) {
    child_.reset();
  }
  const auto deadline = std::chrono::steady_clock::now() + kGuardianEnd;
  if (unit_ && base::wait_readable(unit_.get(), deadline)) {
    unit_.reset();
  }
  return !child_ && !unit_;
}

void GuardianProcess::send(const guardian::Request& request, const std::vector<int>& fds) {
  try {
    base::send_packet(control_.get(), guardian::encode(request), fds);
  } catch (const std::system_error& error) {
    if (!is_gone(error)) {
      throw;
    }
    // What it said before may still be there.
  }
}

base::Packet GuardianProcess::receive(std::chrono::milliseconds deadline) {
  try {
    if (!base::wait_readable(control_.get(), std::chrono::steady_clock::now() + deadline)) {
      fail_silent();
    }
    if (std::optional<base::Packet> packet = base::receive_packet(control_.get())) {
      return std::move(*packet);
    }
  } catch (const std::system_error& error) {
    if (!is_gone(error)) {
      throw;
    }
  }
  // It may have been at putting something back.
  throw Failure(ExitCode::host_not_restored,
                "The guardian ended without an answer; type: vmlaunch recover");
}

guardian::Reply GuardianProcess::ask(const guardian::Request& request,
                                     const std::vector<int>& fds,
                                     std::chrono::milliseconds deadline,
                                     const std::function<void(const std::string& text)>& on_wait) {
  send(request, fds);
  for (;;) {
    guardian::Reply reply = guardian::decode_reply(receive(deadline).bytes);
    const auto* waiting = std::get_if<guardian::Waiting>(&reply);
    if (waiting == nullptr) {
      return accepted(std::move(reply));
    }
    if (on_wait) {
      on_wait(waiting->text);
    }
  }
}

std::vector<std::string> GuardianProcess::begin(
    const guardian::Begin& request, const std::function<void(const std::string& text)>& on_wait) {
  std::vector<std::string> lines =
      std::get<guardian::Begun>(ask(request, {}, kBeginDeadline, on_wait)).leftovers;
  if (!complaint_.empty()) {
    lines.push_back(complaint_);
  }
  return lines;
}

GuardianLink::GuardianLink(asio::io_context& io,
                           base::UniqueFd control,
                           base::UniqueFd process,
                           Listener listener)
    : control_(io, control.release()), process_(io), answered_(io), listener_(std::move(listener)) {
  // Detached: it ends with the connection, which `gone` tells.
  asio::co_spawn(io, read(), asio::detached);
  if (process) {
    process_.assign(process.release());
    process_.async_wait(asio::posix::stream_descriptor::wait_read,
                        [this](const boost::system::error_code& error) {
                          if (!error) {
                            note_end_of_process();
                          }
                        });
  }
}

void GuardianLink::send(const guardian::Request& request, const std::vector<int>& fds) {
  try {
    base::send_packet(control_.native_handle(), guardian::encode(request), fds);
  } catch (const std::system_error& error) {
    if (!is_gone(error)) {
      throw;
    }
    // It is gone, but what it said before may still be there: the reader finds both.
  }
}

void GuardianLink::tell(const guardian::Request& request) {
  outstanding_.push_back(false);
  send(request, {});
}

void GuardianLink::take(base::Packet packet) {
  guardian::Reply reply = guardian::decode_reply(packet.bytes);
  if (const auto* exited = std::get_if<guardian::Exited>(&reply)) {
    qemu_exit_ = exited->status;
    listener_.on_change();
    return;
  }
  if (const auto* waiting = std::get_if<guardian::Waiting>(&reply)) {
    heard_ = std::chrono::steady_clock::now();
    if (std::exchange(waits_for_, waiting->text) != waiting->text) {
      listener_.on_wait(waiting->text);
    }
    return;
  }
  if (const auto* refused = std::get_if<guardian::CallRefused>(&reply)) {
    listener_.on_refused_call(*refused);
    return;
  }
  if (outstanding_.empty()) {
    throw guardian::ProtocolError("an answer that nobody asked for");
  }
  const bool wanted = outstanding_.front();
  outstanding_.pop_front();
  if (const auto* refused = std::get_if<guardian::Refused>(&reply); refused && !wanted) {
    listener_.on_refusal(refused->message);
  }
  if (wanted) {
    answers_.push_back({std::move(reply), std::move(packet.fds)});
    answered_.cancel();
  }
}

/// Takes what is there; false when the guardian is gone.
bool GuardianLink::receive() {
  try {
    std::optional<base::Packet> packet = base::receive_packet(control_.native_handle());
    if (!packet) {
      return false;
    }
    take(std::move(*packet));
    return true;
  } catch (const std::system_error& error) {
    return error.code().value() == EAGAIN;
  } catch (const guardian::ProtocolError&) {
    return false;
  }
}

asio::awaitable<void> GuardianLink::read() {
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  bool alive = true;
  while (alive) {
    co_await control_.async_wait(asio::posix::stream_descriptor::wait_read, token);
    alive = !error && receive();
  }
  if (error != asio::error::operation_aborted) {
    note_gone();
  }
}

/// systemd has the socket of a unit for as long as its last commands run: it tells nothing then.
void GuardianLink::note_end_of_process() {
  // What it said last may still be there.
  while (base::wait_readable(control_.native_handle(), std::chrono::steady_clock::now()) &&
         receive()) {
  }
  note_gone();
}

void GuardianLink::note_gone() {
  gone_ = true;
  answered_.cancel();
  listener_.on_change();
}

asio::awaitable<GuardianLink::Answer> GuardianLink::ask(guardian::Request request,
                                                        std::vector<int> fds,
                                                        std::chrono::milliseconds deadline) {
  outstanding_.push_back(true);
  waits_for_.clear();
  send(request, fds);
  heard_ = std::chrono::steady_clock::now();
  boost::system::error_code error;
  auto token = asio::redirect_error(asio::use_awaitable, error);
  while (answers_.empty() && !gone_ && std::chrono::steady_clock::now() < heard_ + deadline) {
    answered_.expires_at(heard_ + deadline);
    co_await answered_.async_wait(token);
  }
  if (answers_.empty()) {
    outstanding_.assign(outstanding_.size(), false);  // a late answer is nobody's
    if (!gone_) {
      fail_silent();
    }
    throw Failure(ExitCode::host_not_restored,
                  "The guardian died, and QEMU with it; type: vmlaunch recover");
  }
  Answer answer = std::move(answers_.front());
  answers_.pop_front();
  answer.reply = accepted(std::move(answer.reply));
  co_return answer;
}

}  // namespace vmlaunch::launcher::run
