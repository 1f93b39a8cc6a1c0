#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/process.hpp"
#include "qmp/client.hpp"
#include "tests/component/qmp_firmware.hpp"
#include "tests/component/qmp_listening.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;
using base::ExitStatus;
using vmlaunch::tests::QemuSetup;
using Kind = CloseReason::Kind;

/// A conversation until the end, with what the events said.
class Ending : public Conversation {
 public:
  explicit Ending(std::vector<std::string> arguments = {"-machine", "none"},
                  Start how = Start::greeting)
      : Conversation(QemuSetup{std::move(arguments)}, how) {
    client->on_event([this](const Event& event) { heard.push_back(event); });
    client->on_close([this](const CloseReason& reason) {
      closes.push_back(reason);
      heard_at_close = heard.size();
    });
    shake_hands();
  }

  /// How QEMU ended, once the connection has.
  std::optional<ExitStatus> end() {
    until([this] { return !closes.empty(); });
    CHECK(heard_at_close == heard.size());
    return qemu.wait();
  }

  [[nodiscard]] std::vector<Event> shutdowns() const {
    std::vector<Event> found = heard;
    std::erase_if(found, [](const Event& event) { return event.name != "SHUTDOWN"; });
    return found;
  }

  std::vector<Event> heard;
  std::size_t heard_at_close = 0;
};

const ExitStatus kGood{0, 0};

/// The one SHUTDOWN event of an orderly end, and behind it a close of either kind.
void check_orderly(const Ending& scene, bool guest, const std::string& reason) {
  REQUIRE(scene.shutdowns().size() == 1);
  CHECK(scene.heard.back().data == Json{{"guest", guest}, {"reason", reason}});
  REQUIRE(scene.closes.size() == 1);
  CHECK((scene.closes[0].kind == Kind::eof || scene.closes[0].kind == Kind::reset));
}

/// False if the connection ended before the reply.
bool is_answered(Ending& scene, const std::shared_ptr<Outcome<Json>>& reply) {
  scene.until([&] { return reply->done; });
  try {
    static_cast<void>(reply->get());
  } catch (const Interrupted& interrupted) {
    CHECK(interrupted.reason() == scene.closes.at(0));
    return false;
  }
  return true;
}

TEST_CASE("qmp: quit is an orderly end, with an answer or without") {
  for (const Start how : {Start::greeting, Start::take_over}) {
    Ending scene({"-machine", "none"}, how);
    const auto reply = scene.send("quit");
    CHECK(scene.end() == kGood);
    check_orderly(scene, false, "host-qmp-quit");
    static_cast<void>(is_answered(scene, reply));
  }
}

TEST_CASE("qmp: commands behind quit are interrupted") {
  for (const Start how : {Start::greeting, Start::take_over}) {
    Ending scene({"-machine", "none"}, how);
    const auto reply = scene.send("quit");
    std::vector<std::shared_ptr<Outcome<Json>>> behind;
    for (int i = 0; i < 20; ++i) {
      behind.push_back(scene.send(i == 0 ? "quit" : "query-status"));
    }
    CHECK(scene.end() == kGood);
    check_orderly(scene, false, "host-qmp-quit");
    static_cast<void>(is_answered(scene, reply));
    for (const auto& late : behind) {
      CHECK_FALSE(is_answered(scene, late));
    }
  }
}

TEST_CASE("qmp: quit and a signal at once are one orderly end") {
  Ending scene;
  const auto reply = scene.send("quit");
  scene.settle();
  scene.qemu.signal(SIGTERM);
  CHECK(scene.end() == kGood);
  CHECK_FALSE(scene.shutdowns().empty());
  static_cast<void>(is_answered(scene, reply));
}

TEST_CASE("qmp: a signal that asks QEMU to end is told by an event") {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    INFO(base::signal_name(signal));
    Ending scene;
    scene.qemu.signal(signal);
    CHECK(scene.end() == kGood);
    check_orderly(scene, false, "host-signal");
  }
}

TEST_CASE(
    "qmp: a killed QEMU says nothing, and the commands that it had not read make it a reset") {
  Ending idle;
  idle.qemu.signal(SIGKILL);
  CHECK(idle.end() == ExitStatus{0, SIGKILL});
  CHECK(idle.heard.empty());

  // Without the out-of-band band QEMU reads no further than to the command in execution.
  Ending busy({"-machine", "none"}, Start::take_over);
  Blockade blockade;
  const auto blocked = busy.send("blockdev-add", blockade.node());
  const auto unread = busy.send("query-status");
  busy.until([&] { return blockade.is_reached(); });
  busy.qemu.signal(SIGKILL);
  CHECK(busy.end() == ExitStatus{0, SIGKILL});
  CHECK(busy.closes[0].kind == Kind::reset);
  CHECK_FALSE(is_answered(busy, blocked));
  CHECK_FALSE(is_answered(busy, unread));
  CHECK(busy.heard.empty());
}

TEST_CASE("qmp: a QEMU that a command aborts interrupts it and says nothing") {
  Ending scene;
  forbid_core_dump(scene.qemu);
  const auto reply =
      scene.send("object-add", {{"qom-type", "memory-backend-ram"}, {"id", "none"}, {"size", -1}});
  CHECK(scene.end() == ExitStatus{0, SIGABRT});
  CHECK_FALSE(is_answered(scene, reply));
  CHECK(scene.heard.empty());
  CHECK(scene.qemu.errors().find("Assertion") != std::string::npos);
}

TEST_CASE("qmp: a watchdog that powers off ends QEMU without a SHUTDOWN event") {
  vmlaunch::tests::Folder folder;
  Ending scene(
      {"-machine", "pc", "-S", "-device", "ib700", "-bios", firmware(folder, kLetWatchdogExpire)});
  scene.execute("watchdog-set-action", {{"action", "poweroff"}});
  const auto reply = scene.send("cont");
  CHECK(scene.end() == kGood);
  CHECK(scene.shutdowns().empty());
  CHECK(scene.heard.back().name == "WATCHDOG");
  CHECK(scene.heard.back().data == Json{{"action", "poweroff"}});
  static_cast<void>(is_answered(scene, reply));
}

TEST_CASE("qmp: with -no-reboot a reset is the end, the guest's or ours") {
  vmlaunch::tests::Folder folder;
  Ending guest({"-machine", "pc", "-S", "-no-reboot", "-bios", firmware(folder, kReset)});
  guest.send("cont");
  CHECK(guest.end() == kGood);
  check_orderly(guest, true, "guest-reset");

  Ending host({"-machine", "none", "-no-reboot"});
  const auto reply = host.send("system_reset");
  CHECK(host.end() == kGood);
  check_orderly(host, false, "host-qmp-system-reset");
  static_cast<void>(is_answered(host, reply));
}

TEST_CASE("qmp: with -no-shutdown QEMU says SHUTDOWN, stays, and says it again when it ends") {
  for (const bool by_signal : {false, true}) {
    Ending scene({"-machine", "none", "-no-shutdown", "-no-reboot"});
    scene.execute("system_reset");
    scene.until([&] { return !scene.heard.empty() && scene.heard.back().name == "STOP"; });
    CHECK(scene.shutdowns().size() == 1);
    CHECK(scene.execute("query-status").at("status") == "shutdown");
    CHECK_THROWS_AS(scene.execute("cont"), CommandError);
    CHECK(scene.closes.empty());

    if (by_signal) {
      scene.qemu.signal(SIGTERM);
    } else {
      scene.send("quit");
    }
    CHECK(scene.end() == kGood);
    REQUIRE(scene.shutdowns().size() == 2);
    CHECK(scene.shutdowns()[0].data.at("reason") == "host-qmp-system-reset");
    CHECK(scene.shutdowns()[1].data.at("reason") == (by_signal ? "host-signal" : "host-qmp-quit"));
  }
}

TEST_CASE("qmp: a signal ends a QEMU whose main loop hangs in a command, which fails") {
  Ending scene;
  Blockade blockade;
  const auto blocked = scene.send("blockdev-add", blockade.node());
  const auto queued = scene.send("query-status");
  scene.until([&] { return blockade.is_reached(); });
  scene.qemu.signal(SIGTERM);
  CHECK(scene.end() == kGood);
  check_orderly(scene, false, "host-signal");
  CHECK_THROWS_AS(scene.finish(blocked), CommandError);
  CHECK_FALSE(is_answered(scene, queued));
}

TEST_CASE("qmp: QEMU outlives its client, and the next one finds it as the last one left it") {
  Listening scene;
  const auto first = scene.greeted();
  scene.execute(*first, "stop");
  CHECK(first->events == std::vector<std::string>{"STOP"});
  first->client.close();
  const auto next = scene.greeted();
  CHECK(scene.execute(*next, "query-status").at("status") == "paused");
  CHECK(next->events.empty());
  scene.execute(*next, "cont");
  CHECK(next->events == std::vector<std::string>{"RESUME"});
}

}  // namespace
}  // namespace vmlaunch::qmp
