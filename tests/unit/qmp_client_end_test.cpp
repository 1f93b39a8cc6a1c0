#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "qmp/client.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;

CloseReason interruption(Scene& scene, const std::shared_ptr<Outcome<Json>>& call) {
  scene.until([&] { return call->done; });
  try {
    static_cast<void>(call->get());
  } catch (const Interrupted& error) {
    return error.reason();
  }
  FAIL("the command succeeded");
  return {};
}

TEST_CASE("client: the connection may end after any byte", "[qmp]") {
  // Each is whole with its last brace, before the line end.
  const auto [greeted, told, whole] = [] {
    Scene scene;
    scene.shake_hands();
    const std::size_t shaken = scene.sent;
    const auto call = scene.execute("query-status");
    scene.send(event("STOP") + answer(scene.line()));
    static_cast<void>(scene.finish(call));
    return std::array{shaken - 2, shaken + event("STOP").size() - 2, scene.sent - 2};
  }();

  for (std::size_t cut = 0; cut <= whole + 2; ++cut) {
    INFO("cut after " << cut << " of " << whole);
    Scene scene;
    scene.budget = cut;
    const auto greeting = scene.start(scene.client->handshake(kLong));
    std::shared_ptr<Outcome<Json>> call;
    scene.send(kGreeting);
    if (*scene.budget > 0) {
      scene.send(answer(scene.line()));
    }
    if (*scene.budget > 0) {
      static_cast<void>(scene.finish(greeting));
      call = scene.execute("query-status");
      scene.send(event("STOP") + answer(scene.line()));
    }
    scene.peer.reset();
    scene.until_closed();
    scene.until([&] { return greeting->done && (!call || call->done); });

    CHECK(scene.closes.size() == 1);
    CHECK((scene.closes.front().kind == Kind::eof || scene.closes.front().kind == Kind::reset));
    if (cut < greeted) {
      CHECK_THROWS_AS(greeting->get(), HandshakeError);
    } else {
      CHECK(greeting->get().version == "7.2.22");
    }
    CHECK(scene.events.size() == (cut < told ? 0U : 1U));
    CHECK((call != nullptr || cut <= greeted + 2));
    if (call && cut < whole) {
      CHECK_THROWS_AS(call->get(), Interrupted);
    } else if (call) {
      CHECK(call->get() == Json::object());
    }
  }
}

TEST_CASE("client: what came before a reset is still delivered", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto call = scene.execute("quit");
  const auto behind = scene.execute("query-status");
  scene.settle();
  // QEMU acts on the closing brace, so the line end and all that follows stays unread.
  std::string line(std::string_view("{\"execute\":\"quit\",\"id\":1234567}").size(), '\0');
  REQUIRE(::recv(scene.peer.get(), line.data(), line.size(), 0) ==
          static_cast<ssize_t>(line.size()));
  scene.send(event("SHUTDOWN") + answer(line));
  scene.peer.reset();

  CHECK(scene.finish(call) == Json::object());
  CHECK(scene.events == std::vector<std::string>{"SHUTDOWN"});
  CHECK(interruption(scene, behind).kind == Kind::reset);
  CHECK_THROWS_WITH(behind->get(),
                    "Command query-status was interrupted, its outcome is unknown: the connection "
                    "broke (Connection reset by peer)");
  scene.until_closed();
  CHECK(scene.closes.front().kind == Kind::reset);
}

TEST_CASE("client: a failed write is a reset, behind what can still be read", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  scene.send(event("SHUTDOWN"));
  REQUIRE(::shutdown(scene.peer.get(), SHUT_RD) == 0);
  const auto call = scene.execute("query-status");
  CHECK(interruption(scene, call) ==
        CloseReason{Kind::reset, "the connection broke (Broken pipe)"});
  CHECK(scene.events == std::vector<std::string>{"SHUTDOWN"});
  scene.until_closed();
  CHECK(scene.closes.size() == 1);
}

TEST_CASE("client: a command after the end is not sent", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  scene.peer.reset();
  scene.until_closed();
  const auto call = scene.execute("quit");
  CHECK(interruption(scene, call).kind == Kind::eof);
  CHECK_THROWS_WITH(call->get(), "Command quit was not sent: QEMU closed the connection");
}

TEST_CASE("client: close ends all pending commands and is idempotent", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto first = scene.execute("first");
  const auto second = scene.execute("second");
  static_cast<void>(scene.line());
  scene.client->close();
  scene.client->close();
  CHECK(scene.closes.empty());
  CHECK(interruption(scene, first).kind == Kind::local);
  CHECK(interruption(scene, second).kind == Kind::local);
  scene.until_closed();
  scene.settle();
  CHECK(scene.closes == std::vector<CloseReason>{{Kind::local, "closed by this side"}});
}

TEST_CASE("client: a message that breaks the limits ends the connection", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto call = scene.execute("query-status");
  static_cast<void>(scene.line());
  scene.send("{\"return\": " + std::string(2000, '['));
  CHECK(interruption(scene, call) ==
        CloseReason{Kind::protocol, "A QMP message is nested deeper than 1024 levels"});
}

TEST_CASE("client: an event handler may close the client or destroy it", "[qmp]") {
  for (const bool destroy : {false, true}) {
    INFO("destroy " << destroy);
    Scene scene;
    scene.client->on_event([&scene, destroy](const Event& received) {
      scene.events.push_back(received.name);
      if (destroy) {
        scene.client.reset();
      } else {
        scene.client->close();
      }
    });
    scene.shake_hands();
    const auto call = scene.execute("query-status");
    static_cast<void>(scene.line());
    scene.send(event("STOP") + event("RESUME"));
    CHECK(interruption(scene, call).kind == Kind::local);
    scene.settle();
    CHECK(scene.events == std::vector<std::string>{"STOP"});
    CHECK(scene.closes.size() == (destroy ? 0U : 1U));
  }
}

TEST_CASE("client: what a handler throws leaves the event loop", "[qmp]") {
  Scene scene;
  scene.client->on_event([](const Event&) { throw std::runtime_error("handler"); });
  scene.shake_hands();
  const auto call = scene.execute("query-status");
  static_cast<void>(scene.line());
  scene.send(event("STOP"));
  CHECK_THROWS_WITH(scene.until([&] { return !scene.closes.empty(); }), "handler");
  CHECK(interruption(scene, call).kind == Kind::local);
  scene.until_closed();
}

TEST_CASE("client: what a handler throws is not taken for the peer's fault", "[qmp]") {
  Scene scene;
  scene.client->on_event([](const Event&) { throw ProtocolError("of another protocol"); });
  scene.shake_hands();
  scene.send(event("STOP"));
  CHECK_THROWS_AS(scene.until([&] { return !scene.closes.empty(); }), ProtocolError);
  scene.until_closed();
  CHECK(scene.closes.front().kind == Kind::local);
}

TEST_CASE("client: the first cause is kept when a close follows a failed write", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  REQUIRE(::shutdown(scene.peer.get(), SHUT_RD) == 0);
  const auto call = scene.execute("query-status");
  scene.context.restart();
  scene.context.poll_one();  // it is sent, and the reader does not know yet
  scene.client->close();
  CHECK(interruption(scene, call).kind == Kind::reset);
  scene.until_closed();
  CHECK(scene.closes.front().kind == Kind::reset);
}

TEST_CASE("client: twenty thousand commands wait their turn without a search for it", "[qmp]") {
  constexpr std::size_t kCommands = 20000;
  Scene scene;
  scene.shake_hands();
  std::vector<std::shared_ptr<Outcome<Json>>> calls;
  calls.reserve(kCommands);
  for (std::size_t i = 0; i < kCommands; ++i) {
    calls.push_back(scene.execute("query-status"));
  }
  for (std::size_t i = 0; i < kCommands; ++i) {
    scene.send(answer(scene.line(), std::to_string(i)));
  }
  for (std::size_t i = 0; i < kCommands; ++i) {
    CHECK(scene.finish(calls[i]) == i);
  }
}

TEST_CASE("client: destroyed at any step, it leaves nothing behind", "[qmp]") {
  for (int step = 0; step < 5; ++step) {
    for (const bool run_on : {false, true}) {
      INFO("step " << step << ", run on " << run_on);
      Scene scene;
      std::shared_ptr<Outcome<Greeting>> greeting;
      std::vector<std::shared_ptr<Outcome<Json>>> calls;
      if (step > 0) {
        greeting = scene.start(scene.client->handshake(kLong));
        scene.settle();
      }
      if (step > 1) {
        scene.send(kGreeting);
        scene.send(answer(scene.line()));
        static_cast<void>(scene.finish(greeting));
        calls.push_back(scene.execute("sent"));
        scene.settle();
      }
      if (step > 2) {
        Json arguments = Json::object();
        arguments["blob"] = std::string(std::size_t{1} << 20U, 'x');
        calls.push_back(scene.start(scene.client->execute("begun", arguments, kLong)));
        calls.push_back(scene.execute("queued"));
        scene.settle();
      }
      if (step > 3) {
        calls.push_back(scene.execute("not started"));
      }
      scene.client.reset();
      if (run_on) {
        for (const auto& call : calls) {
          CHECK(interruption(scene, call).kind == Kind::local);
        }
        scene.settle();
      }
      CHECK(scene.closes.empty());
    }
  }
}

TEST_CASE("client: its socket is non-blocking and closed on exec", "[qmp]") {
  asio::io_context context;
  auto [ours, theirs] = base::make_socket_pair(SOCK_STREAM);
  const int fd = ours.get();
  REQUIRE(::fcntl(fd, F_SETFD, 0) == 0);
  const Client client(context, std::move(ours));
  CHECK((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  CHECK((::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
}

TEST_CASE("client: an idle connection has nothing to do", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  scene.settle();
  scene.context.restart();
  CHECK(scene.context.poll() == 0);
}

long times_slept() {
  rusage usage{};
  base::check(::getrusage(RUSAGE_THREAD, &usage), "ask for the use of the processor");
  return usage.ru_nvcsw;
}

TEST_CASE("client: an idle connection sleeps through", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto command = scene.execute("query-status");
  scene.send(answer(scene.line()));
  scene.finish(command);
  scene.settle();
  scene.context.restart();
  const long before = times_slept();
  CHECK(scene.context.run_one_for(2s) == 0);
  CHECK(times_slept() - before <= 5);  // Asio itself looks up once in each second of such a wait
}

}  // namespace
}  // namespace vmlaunch::qmp
