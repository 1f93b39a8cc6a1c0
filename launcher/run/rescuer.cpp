#include "launcher/run/rescuer.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/errors.hpp"
#include "base/process.hpp"
#include "qmp/client.hpp"
#include "qmp/commands.hpp"

namespace vmlaunch::launcher::run {

namespace {

namespace asio = boost::asio;
using std::chrono::steady_clock;

constexpr base::Milliseconds kReply{2000};

void press_power_button(asio::io_context& io, qmp::Client& client) {
  // Detached: whether it arrives shows in the guest's end, not in the reply.
  asio::co_spawn(
      io, client.execute("system_powerdown", qmp::Json::object(), kReply), asio::detached);
}

/// Ends when QEMU closes the monitor, since that stops the context.
asio::awaitable<void> shut_down(asio::io_context& io,
                                qmp::Client& client,
                                plan::Deadlines deadlines) {
  co_await client.handshake(deadlines.quit);
  const qmp::RunState state = co_await qmp::query_status(client, kReply);
  asio::steady_timer timer(io);
  const auto until = steady_clock::now() + deadlines.powerdown;
  while (state.running && steady_clock::now() < until) {
    press_power_button(io, client);
    timer.expires_at(std::min(until, steady_clock::now() + deadlines.powerdown_again));
    co_await timer.async_wait(asio::use_awaitable);
  }
  co_await client.execute("quit", qmp::Json::object(), deadlines.quit);
  timer.expires_after(deadlines.quit);
  co_await timer.async_wait(asio::use_awaitable);
}

void rescue(base::UniqueFd qmp, const plan::Deadlines& deadlines) {
  asio::io_context io(1);
  qmp::Client client(io, std::move(qmp), qmp::Start::take_over);
  client.on_close([&](const qmp::CloseReason&) { io.stop(); });
  asio::co_spawn(
      io, shut_down(io, client, deadlines), [&](const std::exception_ptr&) { io.stop(); });
  io.run();
}

}  // namespace

void run_rescuer(base::UniqueFd qmp,
                 const plan::Deadlines& deadlines,
                 const sandbox::Credentials& credentials,
                 pid_t parent) {
  try {
    base::close_all_but({qmp.get()});
    sandbox::become(credentials);
    base::check(::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "die with the guardian");
    if (::getppid() == parent) {
      rescue(std::move(qmp), deadlines);
    }
  } catch (const std::exception&) {
    // The guardian sees that QEMU lives on, and goes on with SIGTERM.
  }
  ::_exit(0);
}

}  // namespace vmlaunch::launcher::run
