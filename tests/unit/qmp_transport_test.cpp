#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include "qmp/transport.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::qmp {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using vmlaunch::tests::Folder;
using ConnectCause = ConnectError::Cause;

/// A socket that listens at `path`.
base::UniqueFd listen_at(const std::string& path, int backlog) {
  base::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(socket.get(), backlog) == 0);
  return socket;
}

ConnectCause failure(const std::string& path,
                     std::chrono::milliseconds deadline,
                     const LastWords& ended = nullptr,
                     std::string* text = nullptr) {
  asio::io_context context;
  std::optional<ConnectCause> cause;
  asio::co_spawn(context,
                 connect(context, path, deadline, ended),
                 [&](const std::exception_ptr& error, const base::UniqueFd&) {
                   try {
                     REQUIRE(error);
                     std::rethrow_exception(error);
                   } catch (const ConnectError& connect_error) {
                     cause = connect_error.cause();
                     if (text != nullptr) {
                       *text = connect_error.what();
                     }
                   }
                 });
  context.run_for(20s);
  REQUIRE(cause.has_value());
  return *cause;
}

TEST_CASE("connect: each way in which a monitor is not there is told apart", "[qmp]") {
  const Folder folder;
  CHECK(failure("", 1s) == ConnectCause::bad_path);
  CHECK(failure("/" + std::string(107, 'x'), 1s) == ConnectCause::bad_path);
  CHECK(failure(folder.file("none"), 20ms) == ConnectCause::not_there);
  CHECK(failure(folder.file("none"), 20ms, [] { return std::nullopt; }) == ConnectCause::not_there);
  std::string text;
  CHECK(failure(
            folder.file("none"), 20s, [] { return "bad option"; }, &text) == ConnectCause::gone);
  CHECK(text.ends_with(": QEMU has ended: bad option"));
  const std::string busy = folder.file("busy");
  const base::UniqueFd listener = listen_at(busy, 0);
  std::vector<base::UniqueFd> others;
  asio::io_context context;
  asio::co_spawn(
      context, connect(context, busy, 5s), [&](const std::exception_ptr&, base::UniqueFd fd) {
        others.push_back(std::move(fd));
      });
  context.run_for(5s);
  REQUIRE(others.size() == 1);
  CHECK((::fcntl(others.front().get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(failure(busy, 50ms) == ConnectCause::busy);
}

TEST_CASE("connect: a monitor that comes later is found", "[qmp]") {
  const Folder folder;
  const std::string path = folder.file("monitor");
  asio::io_context context;
  bool connected = false;
  asio::co_spawn(context,
                 connect(context, path, 10s),
                 [&](const std::exception_ptr&, const base::UniqueFd& fd) {
                   connected = static_cast<bool>(fd);
                 });
  context.run_for(50ms);
  CHECK_FALSE(connected);
  const base::UniqueFd listener = listen_at(path, 1);
  context.run_for(5s);
  CHECK(connected);
}

}  // namespace
}  // namespace vmlaunch::qmp
