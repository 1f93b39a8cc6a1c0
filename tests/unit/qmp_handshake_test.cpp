#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/cancellation_signal.hpp>
#include <boost/system/system_error.hpp>

#include "qmp/client.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;

template <typename T>
Cause handshake_failure(Scene& scene,
                        const std::shared_ptr<Outcome<T>>& greeting,
                        const std::string& text) {
  scene.until([&] { return greeting->done; });
  try {
    static_cast<void>(greeting->get());
  } catch (const HandshakeError& error) {
    CHECK(error.what() == text);
    scene.until_closed();
    return error.cause();
  }
  FAIL("the handshake succeeded");
  return Cause::closed;
}

TEST_CASE("client: the handshake gives the greeting", "[qmp]") {
  Scene scene;
  const Greeting greeting = scene.shake_hands();
  CHECK(greeting.version == "7.2.22");
  CHECK(greeting.offers_oob);
  CHECK(scene.events.empty());
}

TEST_CASE("client: the handshake tolerates what belongs to others, in every place", "[qmp]") {
  const std::string foreign = event("STOP") + kStaleReply + kErrorWithoutId;
  for (int variant = 0; variant < 4; ++variant) {
    INFO("variant " << variant);
    Scene scene;
    const auto greeting = scene.start(scene.client->handshake(kLong));
    if ((variant & 1) != 0) {
      scene.send(foreign);
    }
    scene.send(kGreeting);
    const std::string line = scene.line();
    if ((variant & 2) != 0) {
      scene.send(foreign);
      scene.settle();
      CHECK_FALSE(greeting->done);
    }
    scene.send(answer(line) + event("RESET"));
    CHECK(scene.finish(greeting).version == "7.2.22");
    scene.until([&] { return !scene.events.empty() && scene.events.back() == "RESET"; });
    CHECK(scene.events.size() ==
          1U + ((variant & 1) != 0 ? 1U : 0U) + ((variant & 2) != 0 ? 1U : 0U));
  }
}

TEST_CASE("client: a missing greeting is told apart", "[qmp]") {
  Scene scene;
  scene.send(event("STOP"));
  const auto greeting = scene.start(scene.client->handshake(kShort));
  CHECK(handshake_failure(scene,
                          greeting,
                          "No QMP greeting within 20ms: QEMU hangs, or another client has the "
                          "monitor") == Cause::no_greeting);
  CHECK(scene.events == std::vector<std::string>{"STOP"});
  CHECK(scene.closes.front().kind == Kind::local);
}

TEST_CASE("client: a main loop that does not run is told apart", "[qmp]") {
  Scene scene;
  scene.send(kGreeting);
  const auto greeting = scene.start(scene.client->handshake(kShort));
  CHECK(handshake_failure(scene,
                          greeting,
                          "No answer to qmp_capabilities within 20ms: QEMU's main loop does not "
                          "run") == Cause::no_answer);
}

TEST_CASE("client: the answer to qmp_capabilities has a deadline of its own", "[qmp]") {
  Scene hung;
  const auto none = hung.start(hung.client->handshake(kLong, kShort));
  hung.send(kGreeting);
  CHECK(handshake_failure(hung,
                          none,
                          "No answer to qmp_capabilities within 20ms: QEMU's main loop does not "
                          "run") == Cause::no_answer);

  Scene slow;
  const auto greeting = slow.start(slow.client->handshake(200ms, kLong));
  slow.send(kGreeting);
  const std::string line = slow.line();
  std::this_thread::sleep_for(250ms);
  slow.settle();
  slow.send(answer(line));
  CHECK(slow.finish(greeting).version == "7.2.22");
}

TEST_CASE("client: a peer that does not speak QMP is told at once", "[qmp]") {
  Scene scene;
  scene.send("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
  const auto greeting = scene.start(scene.client->handshake(kLong));
  CHECK(handshake_failure(scene,
                          greeting,
                          "The peer does not speak QMP (first bytes \"QEMU 7.2.22 monitor - type "
                          "'help' for more information\\x0d\\x0a(qemu) \")") == Cause::not_qmp);
  CHECK(scene.closes.front().kind == Kind::protocol);
}

TEST_CASE("client: a refused negotiation is told apart", "[qmp]") {
  Scene scene;
  const auto greeting = scene.start(scene.client->handshake(kLong));
  scene.send(kGreeting);
  scene.send(refusal(scene.line(), "CommandNotFound"));
  CHECK(
      handshake_failure(scene, greeting, "Command qmp_capabilities failed: No (CommandNotFound)") ==
      Cause::refused);
}

TEST_CASE("client: a close during the handshake says how far it had come", "[qmp]") {
  Scene early;
  early.peer.reset();
  const auto first = early.start(early.client->handshake(kLong));
  CHECK(handshake_failure(early,
                          first,
                          "The QMP handshake ended before the greeting: QEMU closed the "
                          "connection") == Cause::closed);

  Scene late;
  const auto second = late.start(late.client->handshake(kLong));
  late.send(kGreeting);
  static_cast<void>(late.line());
  late.peer.reset();
  CHECK(handshake_failure(late,
                          second,
                          "The QMP handshake ended before the answer to qmp_capabilities: QEMU "
                          "closed the connection") == Cause::closed);

  Scene local;
  const auto third = local.start(local.client->handshake(kLong));
  local.settle();
  local.client->close();
  CHECK(handshake_failure(local, third, "The QMP handshake ended: closed by this side") ==
        Cause::closed);
}

TEST_CASE("client: a handshake after the close fails", "[qmp]") {
  Scene scene;
  scene.client->close();
  const auto greeting = scene.start(scene.client->handshake(kLong));
  CHECK(handshake_failure(scene,
                          greeting,
                          "The QMP handshake came too late: closed by this side") == Cause::closed);
}

TEST_CASE("client: a cancelled handshake closes the connection", "[qmp]") {
  Scene scene;
  asio::cancellation_signal cancel;
  const auto greeting = scene.start(scene.client->handshake(kLong), cancel.slot());
  scene.settle();
  cancel.emit(asio::cancellation_type::terminal);
  CHECK_THROWS_AS(scene.finish(greeting), boost::system::system_error);
  scene.until_closed();
  CHECK(scene.closes == std::vector<CloseReason>{{Kind::local, "the handshake was cancelled"}});
}

TEST_CASE("client: so does one that is cancelled when the greeting has just come", "[qmp]") {
  Scene scene;
  asio::cancellation_signal cancel;
  scene.client->on_event([&](const Event&) { cancel.emit(asio::cancellation_type::terminal); });
  const auto greeting = scene.start(scene.client->handshake(kLong), cancel.slot());
  scene.settle();
  scene.send(kGreeting + event("STOP"));
  CHECK_THROWS_AS(scene.finish(greeting), boost::system::system_error);
  scene.until_closed();
  CHECK(scene.closes == std::vector<CloseReason>{{Kind::local, "the handshake was cancelled"}});
}

TEST_CASE("client: a take-over finds its place in the middle of a reply", "[qmp]") {
  Scene scene(Start::take_over);
  scene.send("\": \"half\"}], \"id\": 77}\r\n" + event("STOP") + kErrorWithoutId);
  const auto greeting = scene.start(scene.client->handshake(kLong));
  std::string line = scene.line();
  CHECK(line.front() == '\xff');
  line.erase(0, 1);
  scene.send(std::string(kStaleReply) + refusal(line, "CommandNotFound"));
  CHECK(scene.finish(greeting).version.empty());
  CHECK(scene.events == std::vector<std::string>{"STOP"});

  const auto call = scene.execute("query-status");
  scene.send(answer(scene.line(), "5"));
  CHECK(scene.finish(call) == 5);
}

TEST_CASE("client: a take-over of a monitor that was never negotiated works too", "[qmp]") {
  Scene scene(Start::take_over);
  scene.send(std::string("MP\": {}}\r\n") + kGreeting);
  const auto greeting = scene.start(scene.client->handshake(kLong));
  scene.send(answer(scene.line().substr(1)));
  CHECK(scene.finish(greeting).version == "7.2.22");
  CHECK(scene.nothing_more().empty());
}

TEST_CASE("client: a take-over of a main loop that hangs times out", "[qmp]") {
  Scene scene(Start::take_over);
  const auto greeting = scene.start(scene.client->handshake(kShort));
  CHECK(handshake_failure(scene,
                          greeting,
                          "No answer to qmp_capabilities within 20ms: QEMU's main loop does not "
                          "run") == Cause::no_answer);
}

}  // namespace
}  // namespace vmlaunch::qmp
