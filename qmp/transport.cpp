#include "qmp/transport.hpp"

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/duration.hpp"
#include "base/errors.hpp"
#include "base/text.hpp"
#include "qmp/deadlines.hpp"

namespace vmlaunch::qmp {

namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using Cause = ConnectError::Cause;

constexpr milliseconds kFirstPause{2};
constexpr milliseconds kLongestPause{100};

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path ||
      path.find('\0') != std::string::npos) {
    throw ConnectError(Cause::bad_path,
                       "Cannot connect to " + base::printable(path) +
                           ": a socket's path has 1 to " +
                           std::to_string(sizeof address.sun_path - 1) + " bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

/// A socket, and the error number for which it is not connected yet.
struct Attempt {
  base::UniqueFd socket;
  int error = 0;
};

/// By hand: Asio takes EAGAIN, which a full backlog gives, for a connection under way, and leaves
/// its sockets open across exec.
Attempt try_to_connect(const std::string& path) {
  const sockaddr_un address = address_of(path);
  Attempt attempt;
  attempt.socket.reset(base::check(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0),
                                   "make a socket"));
  int result = -1;
  do {
    result = ::connect(
        attempt.socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  } while (result < 0 && errno == EINTR);
  attempt.error = result == 0 ? 0 : errno;
  if (result != 0 && errno != EAGAIN && errno != ENOENT && errno != ECONNREFUSED) {
    base::throw_errno("connect to " + base::printable(path));
  }
  return attempt;
}

[[noreturn]] void give_up(const std::string& path, int error, milliseconds deadline) {
  const std::string start =
      "Cannot connect to " + base::printable(path) + " within " + base::to_string(deadline) + ": ";
  if (error == EAGAIN) {
    throw ConnectError(Cause::busy, start + "other clients wait for this monitor already");
  }
  throw ConnectError(Cause::not_there, start + base::error_text(error));
}

}  // namespace

asio::awaitable<base::UniqueFd> connect(asio::io_context& context,
                                        std::string path,
                                        milliseconds deadline,
                                        LastWords ended) {
  asio::steady_timer timer(context);
  const auto until = steady_clock::now() + clamp_deadline(deadline);
  for (milliseconds pause = kFirstPause;; pause = std::min(pause * 2, kLongestPause)) {
    Attempt attempt = try_to_connect(path);
    if (attempt.error == 0) {
      co_return std::move(attempt.socket);
    }
    if (const auto words = ended ? ended() : std::nullopt) {
      throw ConnectError(Cause::gone,
                         "Cannot connect to " + base::printable(path) + ": QEMU has ended" +
                             (words->empty() ? "" : ": " + *words));
    }
    if (steady_clock::now() >= until) {
      give_up(path, attempt.error, deadline);
    }
    timer.expires_at(std::min(steady_clock::now() + pause, until));
    co_await timer.async_wait(asio::use_awaitable);
  }
}

}  // namespace vmlaunch::qmp
