#include <fcntl.h>
#include <sys/socket.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/awaitable.hpp>

#include "base/file.hpp"
#include "base/process.hpp"
#include "qmp/client.hpp"
#include "qmp/transport.hpp"
#include "tests/component/qmp_listening.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/component/qmp_tampered.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;
using vmlaunch::tests::RealQemu;
using Kind = CloseReason::Kind;
using Cause = HandshakeError::Cause;

/// For what does not come: long enough for a QEMU that is there.
constexpr auto kShort = 2s;

const Json kNoSuchCapability = {{"enable", {"no-such-capability"}}};

HandshakeError handshake_failure(Loop& loop, Client& client, std::chrono::milliseconds deadline) {
  const auto greeting = loop.start(client.handshake(deadline));
  return thrown_by<HandshakeError>([&] { return loop.finish(greeting); });
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

TEST_CASE("qmp: a monitor is spoken to, one line per message or many") {
  for (const char* options : {"", ",pretty=on"}) {
    INFO(options);
    Conversation scene({{"-machine", "none"}, "", options});
    const Greeting greeting = scene.shake_hands();
    CHECK(greeting.offers_oob);
    CHECK_FALSE(greeting.version.empty());
    CHECK(scene.execute("query-status").at("running") == true);
  }
}

TEST_CASE("qmp: a monitor serves one client after the other, and tells when too many wait") {
  Listening scene;
  const auto first = scene.greeted();
  std::vector<std::shared_ptr<Visitor>> waiting;
  const auto refusal = thrown_by<ConnectError>([&] {
    while (waiting.size() < 8) {
      waiting.push_back(scene.dial(kShort));
    }
  });
  CHECK(refusal.cause() == ConnectError::Cause::busy);
  REQUIRE_FALSE(waiting.empty());

  // QEMU lives and serves, yet greets nobody else.
  const auto greeting = scene.start(waiting[0]->client.handshake(kLong));
  const auto last = scene.start(visit(scene.context, scene.path, kLong));
  CHECK(scene.execute(*first, "query-status").at("running") == true);
  CHECK_FALSE(greeting->done);
  CHECK_FALSE(last->done);

  first->client.close();
  CHECK_FALSE(scene.finish(greeting).version.empty());
  waiting.push_back(scene.finish(last));
  for (std::size_t i = 1; i < waiting.size(); ++i) {
    waiting[i - 1]->client.close();
    CHECK_FALSE(scene.shake_hands(*waiting[i]).version.empty());
  }
}

TEST_CASE("qmp: a client that waits for another one's monitor does so until its deadline") {
  Listening scene;
  const auto first = scene.greeted();
  const auto second = scene.dial();
  const auto failure = handshake_failure(scene, second->client, kShort);
  CHECK(failure.cause() == Cause::no_greeting);
  CHECK(contains(failure.what(), "another client has the monitor"));
}

TEST_CASE("qmp: a command before the handshake is refused here, a second negotiation by QEMU") {
  Conversation scene;
  CHECK_THROWS_AS(scene.execute("query-status"), std::logic_error);
  scene.shake_hands();
  const auto refusal = thrown_by<CommandError>([&] { return scene.execute("qmp_capabilities"); });
  CHECK(refusal.error_class() == "CommandNotFound");
  CHECK(scene.execute("query-status").at("running") == true);
}

TEST_CASE("qmp: QEMU refuses commands before the negotiation, and that for what it does not have") {
  Tampered scene({}, Start::take_over);
  REQUIRE(scene.raw.message().contains("QMP"));
  scene.raw.send_command("query-status", nullptr, 1);
  const Json early = scene.raw.message();
  CHECK(early.at("error").at("class") == "CommandNotFound");
  CHECK(early.at("id") == 1);
  scene.raw.send_command("qmp_capabilities", kNoSuchCapability, 2);
  const Json refused = scene.raw.message();
  CHECK(refused.contains("error"));
  CHECK(refused.at("id") == 2);
  // It is as if nothing had been said.
  scene.shake_hands();
  CHECK(scene.execute("query-status").at("running") == true);
  CHECK(scene.client.counters().unknown_ids == 0);
}

TEST_CASE("qmp: what QEMU refuses to somebody else before the negotiation does not end it") {
  Tampered scene;
  scene.raw.send_command("query-status", nullptr, 1);
  scene.raw.send_command("qmp_capabilities", kNoSuchCapability, 2);
  scene.raw.send_command("no-such-command", nullptr, 3);
  scene.shake_hands();
  CHECK(scene.client.has_oob());
  CHECK(scene.client.counters().unknown_ids == 3);
  CHECK(scene.execute("query-status").at("running") == true);
}

TEST_CASE("qmp: a monitor that somebody else has negotiated is told apart, and can be taken over") {
  Tampered scene;
  scene.raw.send_command("qmp_capabilities", nullptr, 1);
  const auto failure = handshake_failure(scene, scene.client, kLong);
  CHECK(failure.cause() == Cause::refused);
  CHECK(contains(failure.what(), "already complete"));
  const auto after = scene.start(scene.client.execute("query-status", nullptr, kLong));
  CHECK_THROWS_AS(scene.finish(after), Interrupted);

  Visitor heir(scene.context, std::move(scene.socket), Start::take_over);
  scene.finish(scene.start(heir.client.handshake(kLong)));
  const auto reply = scene.start(heir.client.execute(kSay, say(7), kLong));
  CHECK(scene.finish(reply) == said(7));
}

TEST_CASE("qmp: a monitor whose greeting nobody has read is taken over") {
  // The negotiation is on its way before QEMU has started, yet the greeting comes first.
  Conversation scene({}, Start::take_over);
  CHECK(scene.shake_hands().version.empty());
  CHECK(scene.execute("query-status").at("running") == true);
}

TEST_CASE("qmp: a closed client leaves the connection whole for who holds a copy of it") {
  RealQemu qemu;
  Loop loop;
  base::UniqueFd ours = qemu.take_monitor();
  base::UniqueFd copy = base::duplicate(ours.get());
  Blockade blockade;
  {
    Visitor lost(loop.context, std::move(ours));
    loop.finish(loop.start(lost.client.handshake(kLong)));
    const auto pending = loop.start(lost.client.execute("blockdev-add", blockade.node(), kLong));
    loop.until([&] { return blockade.is_reached(); });
  }
  const std::string_view half = R"({"execute":"query-st)";
  REQUIRE(::send(copy.get(), half.data(), half.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(half.size()));

  Visitor heir(loop.context, std::move(copy), Start::take_over);
  const auto greeting = loop.start(heir.client.handshake(kLong));
  blockade.lift();
  loop.finish(greeting);
  const auto reply = loop.start(heir.client.execute(kSay, say(7), kLong));
  CHECK(loop.finish(reply) == said(7));
  CHECK(heir.closes.empty());
}

TEST_CASE("qmp: what was not negotiated is not used, and any number of commands waits in order") {
  Conversation scene({}, Start::take_over);
  scene.shake_hands();
  CHECK_FALSE(scene.client->has_oob());
  const auto refused = scene.start(scene.client->execute_oob("query-yank", nullptr, kLong));
  CHECK_THROWS_AS(scene.finish(refused), std::invalid_argument);

  Blockade blockade;
  const auto blocked = scene.send("blockdev-add", blockade.node());
  std::vector<std::shared_ptr<Outcome<Json>>> replies;
  for (int i = 0; i < 100; ++i) {
    replies.push_back(scene.send(kSay, say(i)));
  }
  scene.until([&] { return blockade.is_reached(); });
  CHECK_FALSE(blocked->done);
  blockade.lift();
  CHECK(scene.finish(blocked) == Json::object());
  for (int i = 0; i < 100; ++i) {
    CHECK(scene.finish(replies[static_cast<std::size_t>(i)]) == said(i));
  }
}

TEST_CASE("qmp: a lost client's command delays the next client, and its reply goes to nobody") {
  Listening scene;
  Blockade blockade;
  {
    // Fails in the end, because there is no image in the file.
    const Json node = {{"driver", "qcow2"}, {"node-name", "disk"}, {"file", blockade.node()}};
    const auto lost = scene.greeted();
    scene.send(*lost, "blockdev-add", node);
    scene.until([&] { return blockade.is_reached(); });
  }
  const auto impatient = scene.dial();
  CHECK(handshake_failure(scene, impatient->client, kShort).cause() == Cause::no_answer);

  // It has the monitor when it is greeted, and until then replies go nowhere.
  const auto next = scene.dial();
  REQUIRE(next->hears_from_qemu());
  const auto greeting = scene.start(next->client.handshake(kLong));
  scene.settle();
  CHECK_FALSE(greeting->done);
  blockade.lift();
  scene.finish(greeting);
  for (int i = 0; i < 8; ++i) {
    CHECK(scene.execute(*next, kSay, say(i)) == said(i));
  }
  CHECK(next->client.counters().unknown_ids >= 1);
  CHECK(next->client.counters().invalid == 0);
}

/// Stops and resumes the machine until its client is closed.
asio::awaitable<int> make_events(Client& client) {
  for (;;) {
    co_await client.execute("stop", nullptr, kLong);
    co_await client.execute("cont", nullptr, kLong);
  }
}

/// What of others came to them: events before the answer to the negotiation, and replies.
struct Strange {
  std::size_t early_events = 0;
  std::uint64_t replies = 0;
};

constexpr int kMakers = 8;

/// Clients that come, ask for a number, and leave QEMU with the commands behind it: so many rounds,
/// and then more until an early event was met, at the most `most`.
Strange come_and_go(int rounds, int most) {
  vmlaunch::tests::Folder folder;
  const std::string storm = folder.file("storm");
  Listening scene({"-machine",
                   "none",
                   "-chardev",
                   "socket,id=storm,path=" + storm + ",server=on,wait=off",
                   "-mon",
                   "chardev=storm,mode=control"});
  const auto maker = scene.finish(scene.start(visit(scene.context, storm, kLong)));
  scene.shake_hands(*maker);
  // One would rarely meet the moment between a client's negotiation and its answer.
  std::vector<std::shared_ptr<Outcome<int>>> makers;
  for (int i = 0; i < kMakers; ++i) {
    makers.push_back(scene.start(make_events(maker->client)));
  }

  Strange strange;
  for (int i = 0; i < rounds || (i < most && strange.early_events == 0); ++i) {
    bool answered = false;
    const auto visitor = scene.dial();
    visitor->client.log_to([&](Direction direction, std::string_view text) {
      const bool received = direction == Direction::received;
      answered = answered || (received && text.find("\"return\"") != std::string_view::npos);
      strange.early_events +=
          received && !answered && text.find("\"event\"") != std::string_view::npos;
    });
    scene.shake_hands(*visitor);
    const auto own = scene.send(*visitor, kSay, say(i));
    scene.send(*visitor, "query-commands");
    scene.send(*visitor, "stop");
    REQUIRE(scene.finish(own) == said(i));
    REQUIRE(visitor->client.counters().invalid == 0);
    strange.replies += visitor->client.counters().unknown_ids;
  }
  for (const auto& events : makers) {
    CHECK_FALSE(events->done);
  }
  // Else this has shown nothing.
  CHECK(maker->events.size() > static_cast<std::size_t>(rounds));
  return strange;
}

TEST_CASE("qmp: a thousand clients come and go in a storm of events, each with its own replies") {
  static_cast<void>(come_and_go(1000, 1000));
}

TEST_CASE("qmp: ten thousand clients come and go in a storm of events", "[.full]") {
  const Strange strange = come_and_go(10000, 50000);
  CHECK(strange.early_events > 0);
  CHECK(strange.replies > 0);
}

TEST_CASE("qmp: a half-close costs the whole connection, and not QEMU") {
  RealQemu qemu;
  Loop loop;
  base::UniqueFd ours = qemu.take_monitor();
  const base::UniqueFd copy = base::duplicate(ours.get());
  Visitor visitor(loop.context, std::move(ours));
  loop.finish(loop.start(visitor.client.handshake(kLong)));
  REQUIRE(::shutdown(copy.get(), SHUT_WR) == 0);
  loop.until([&] { return !visitor.closes.empty(); });
  CHECK(visitor.closes[0].kind == Kind::eof);
  CHECK_FALSE(qemu.wait(vmlaunch::tests::Seconds(0.3)).has_value());
}

TEST_CASE("qmp: a monitor for people is told apart at once, and a silent port at the deadline") {
  vmlaunch::tests::Folder folder;
  const std::string people = folder.file("people");
  const std::string port = folder.file("port");
  Listening scene({"-machine",
                   "pc",
                   "-S",
                   "-chardev",
                   "socket,id=people,path=" + people + ",server=on,wait=off",
                   "-mon",
                   "chardev=people,mode=readline",
                   "-chardev",
                   "socket,id=port,path=" + port + ",server=on,wait=off",
                   "-serial",
                   "chardev:port"});
  const auto stranger = scene.finish(scene.start(visit(scene.context, people, kLong)));
  const auto wrong = handshake_failure(scene, stranger->client, kLong);
  CHECK(wrong.cause() == Cause::not_qmp);
  CHECK(contains(wrong.what(), "QEMU"));

  const auto deaf = scene.finish(scene.start(visit(scene.context, port, kLong)));
  CHECK(handshake_failure(scene, deaf->client, kShort).cause() == Cause::no_greeting);
}

TEST_CASE("qmp: a QEMU that cannot start ends the handshake, and says why elsewhere") {
  Conversation scene({{"-machine", "none", "-device", "nonexistent"}});
  CHECK(handshake_failure(scene, *scene.client, kLong).cause() == Cause::closed);
  CHECK(scene.qemu.wait() == base::ExitStatus{1, 0});
  CHECK(contains(scene.qemu.errors(), "'nonexistent' is not a valid device model name"));
  CHECK(scene.events.empty());
}

TEST_CASE("qmp: a stopped QEMU lets clients come and never greets them") {
  Listening scene;
  static_cast<void>(scene.greeted());
  freeze(scene.qemu);
  const auto visitor = scene.dial();
  CHECK(handshake_failure(scene, visitor->client, kShort).cause() == Cause::no_greeting);
  scene.qemu.signal(SIGCONT);
  CHECK_FALSE(scene.shake_hands(*scene.dial()).version.empty());
}

TEST_CASE("qmp: a stopped QEMU costs the command that it does not answer, and not the next one") {
  Conversation scene;
  scene.shake_hands();
  freeze(scene.qemu);
  const auto late = scene.start(scene.client->execute("query-version", nullptr, kShort));
  const auto timeout = thrown_by<Timeout>([&] { return scene.finish(late); });
  CHECK(timeout.cause() == Timeout::Cause::silent);
  CHECK(scene.client->counters().late_replies == 0);
  scene.qemu.signal(SIGCONT);
  CHECK(scene.execute(kSay, say(7)) == said(7));
  CHECK(scene.client->counters().late_replies == 2);  // to the command, and to the look for life
  CHECK(scene.client->counters().unknown_ids == 0);
}

TEST_CASE("qmp: a QEMU whose main loop is blocked lives, and says so") {
  Conversation scene;
  scene.shake_hands();
  CHECK(scene.finish(scene.start(scene.client->probe(kLong))).busy == 0ms);
  Blockade blockade;
  const auto blocked = scene.start(scene.client->execute("blockdev-add", blockade.node(), 2s));
  const auto timeout = thrown_by<Timeout>([&] { return scene.finish(blocked); });
  CHECK(timeout.cause() == Timeout::Cause::blocked);
  const Pulse pulse = scene.finish(scene.start(scene.client->probe(kLong)));
  CHECK(pulse.answers);
  CHECK(pulse.busy >= 2s);
  blockade.lift();
  CHECK(scene.execute(kSay, say(8)) == said(8));
  freeze(scene.qemu);
  CHECK_FALSE(scene.finish(scene.start(scene.client->probe(kShort))).answers);
}

/// The numbers of this process's descriptors, each with whether exec closes it.
std::map<int, bool> descriptors() {
  std::map<int, bool> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::stoi(entry.path().filename());
    found[fd] = (::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0;
  }
  return found;
}

TEST_CASE("qmp: no descriptor of a connection stays open across exec") {
  const auto before = descriptors();
  Listening scene;
  RealQemu other;
  base::UniqueFd open_one = other.take_monitor();
  REQUIRE(::fcntl(open_one.get(), F_SETFD, 0) == 0);
  Visitor on_pair(scene.context, std::move(open_one));
  scene.shake_hands(on_pair);
  const auto on_path = scene.greeted();
  std::error_code ignored;
  auto ours = descriptors();
  std::erase_if(ours, [&](const auto& entry) { return before.count(entry.first) != 0; });
  CHECK(ours.size() > 2);
  for (const auto& [fd, closed_by_exec] : ours) {
    INFO(std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), ignored));
    CHECK(closed_by_exec);
  }
}

}  // namespace
}  // namespace vmlaunch::qmp
