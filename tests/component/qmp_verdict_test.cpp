#include <csignal>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "qmp/ending.hpp"
#include "tests/component/qmp_firmware.hpp"
#include "tests/component/qmp_listening.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;
using vmlaunch::tests::Folder;
using Kind = Verdict::Kind;
using Words = std::vector<std::string>;

/// A QEMU from its start to its end, with all that was seen of it.
class Life : public Conversation {
 public:
  explicit Life(Words arguments = {"-machine", "none"}) : Conversation({std::move(arguments)}) {
    client->on_event([this](const Event& event) {
      events.push_back(event.name);
      seen.note(event);
    });
    client->on_close([this](const CloseReason& reason) { seen.close = reason; });
  }

  void begin() {
    try {
      shake_hands();
    } catch (const HandshakeError& failure) {
      seen.handshake_failure = failure;
    }
  }

  void until_event(const std::string& name) {
    until([&] { return !events.empty() && events.back() == name; });
  }

  /// Of the end, once it has come.
  Verdict verdict() {
    until([this] { return seen.close.has_value(); });
    seen.status = qemu.wait();
    seen.errors = qemu.errors();
    return judge(seen);
  }

  Ending seen;
};

void check(const Verdict& verdict, Kind kind, const std::string& text) {
  CHECK(verdict.kind == kind);
  CHECK(verdict.text == text);
}

/// A machine that does what its firmware says as soon as it may run.
class Machine : public Life {
 public:
  Machine(std::string_view code, const Words& more) : Life(words(firmware(folder(), code), more)) {
    begin();
  }

  void run() { static_cast<void>(send("cont")); }

 private:
  static const Folder& folder() {
    static const Folder folder;
    return folder;
  }

  static Words words(const std::string& bios, const Words& more) {
    Words all = {"-machine", "pc,accel=tcg", "-S", "-bios", bios};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

Verdict verdict_of(std::string_view code, const Words& more) {
  Machine machine(code, more);
  machine.run();
  return machine.verdict();
}

TEST_CASE("qmp: the verdict on a guest that ended QEMU is what the guest did") {
  check(verdict_of(kPowerOff, {}), Kind::orderly, "the guest shut down");
  check(verdict_of(kReset, {"-no-reboot"}), Kind::orderly, "QEMU ended (guest-reset)");
  // Both exit without a SHUTDOWN event.
  check(verdict_of(kLetWatchdogExpire, {"-device", "ib700", "-action", "watchdog=poweroff"}),
        Kind::orderly,
        "the guest's watchdog powered it off");
  check(verdict_of(kExit, {"-device", "isa-debug-exit"}), Kind::failed, "QEMU failed: exit code 3");
}

TEST_CASE("qmp: the verdict on a panic is that, whether QEMU then exits well or with a failure") {
  for (const char* action : {"panic=shutdown", "panic=exit-failure"}) {
    INFO(action);
    check(verdict_of(kPanic, {"-device", "pvpanic", "-action", action}),
          Kind::guest_panicked,
          "the guest panicked");
  }
}

TEST_CASE("qmp: a guest that stands in its panic has not ended, and is ended as one that did") {
  Machine machine(kPanic, {"-device", "pvpanic", "-action", "panic=pause"});
  machine.run();
  machine.until_event("STOP");
  check(judge(machine.seen), Kind::running, "QEMU has not ended");
  machine.send("quit");
  check(machine.verdict(), Kind::guest_panicked, "the guest panicked");
}

TEST_CASE("qmp: a panic that the guest goes on after is not the end of it") {
  const std::vector<std::pair<std::string_view, std::string>> goes_on = {
      {kPanic, "GUEST_PANICKED"}, {kCrashDump, "GUEST_CRASHLOADED"}};
  for (const auto& [code, event] : goes_on) {
    Machine machine(code, {"-device", "pvpanic", "-action", "panic=none"});
    machine.run();
    machine.until_event(event);
    machine.send("quit");
    check(machine.verdict(), Kind::orderly, "QEMU was ended as asked");
  }
}

TEST_CASE("qmp: a guest that shut down did so, also if QEMU stayed and was ended by hand") {
  Machine machine(kPowerOff, {"-no-shutdown"});
  machine.run();
  machine.until_event("STOP");
  check(judge(machine.seen), Kind::running, "QEMU has not ended");
  machine.qemu.signal(SIGTERM);
  check(machine.verdict(), Kind::orderly, "the guest shut down");
}

TEST_CASE("qmp: the verdict on a QEMU that was asked to end says by what") {
  Life asked;
  asked.begin();
  asked.send("quit");
  check(asked.verdict(), Kind::orderly, "QEMU was ended as asked");

  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) {
    INFO(base::signal_name(signal));
    Life life;
    life.begin();
    life.qemu.signal(signal);
    check(life.verdict(), Kind::orderly, "QEMU was ended by a signal from outside");
  }
}

TEST_CASE("qmp: a signal and quit at once are one end in order, by either of them") {
  Life life;
  life.begin();
  freeze(life.qemu);
  life.qemu.signal(SIGTERM);
  life.send("quit");
  life.settle();
  life.qemu.signal(SIGCONT);
  const Verdict verdict = life.verdict();
  CHECK(verdict.kind == Kind::orderly);
  CHECK((verdict.text == "QEMU was ended by a signal from outside" ||
         verdict.text == "QEMU was ended as asked"));
}

TEST_CASE("qmp: the verdict on a QEMU that a signal killed names the signal") {
  for (const int signal : {SIGKILL, SIGSEGV, SIGBUS}) {
    Life life;
    life.begin();
    forbid_core_dump(life.qemu);
    life.qemu.signal(signal);
    check(life.verdict(), Kind::crashed, "QEMU crashed: " + base::signal_name(signal));
  }
}

TEST_CASE("qmp: the verdict on a QEMU that a command aborted is a crash") {
  Life life;
  life.begin();
  forbid_core_dump(life.qemu);
  life.send("object-add", {{"qom-type", "memory-backend-ram"}, {"id", "none"}, {"size", -1}});
  check(life.verdict(), Kind::crashed, "QEMU crashed: SIGABRT");
}

TEST_CASE("qmp: a QEMU that cannot start is explained by its own words") {
  const std::vector<std::pair<Words, std::string>> bad = {
      {{"-machine", "none", "-nonsense"}, "-nonsense: invalid option"},
      {{"-machine", "nonsense"}, "unsupported machine type"},
      {{"-machine", "none", "-drive", "file=/nowhere/disk"}, "'/nowhere/disk': No such file"},
      // Found after the greeting.
      {{"-machine", "pc,accel=tcg", "-device", "nonsense"}, "'nonsense' is not a valid device"}};
  for (const auto& [arguments, cause] : bad) {
    Life life(arguments);
    life.begin();
    const Verdict verdict = life.verdict();
    INFO(verdict.text);
    CHECK(verdict.kind == Kind::not_started);
    CHECK(verdict.text.starts_with("QEMU did not start (exit code 1): "));
    CHECK(verdict.text.find(cause) != std::string::npos);
  }
}

TEST_CASE("qmp: a QEMU that is killed before its main loop runs has not started") {
  Life life;
  freeze(life.qemu);
  life.qemu.signal(SIGKILL);
  life.begin();
  const Verdict verdict = life.verdict();
  CHECK(verdict.kind == Kind::not_started);
  CHECK(verdict.text.starts_with("QEMU did not start (SIGKILL): The QMP handshake ended before"));
}

TEST_CASE("qmp: of a QEMU that is another's child its last words are the verdict, if it had any") {
  const auto judged_by_monitor = [](int signal) {
    Listening scene;
    const auto visitor = scene.greeted();
    Ending seen;
    visitor->client.on_event([&](const Event& event) { seen.note(event); });
    scene.qemu.signal(signal);
    scene.until([&] { return !visitor->closes.empty(); });
    seen.close = visitor->closes[0];
    return judge(seen);
  };
  check(judged_by_monitor(SIGTERM), Kind::orderly, "QEMU was ended by a signal from outside");
  const Verdict silent = judged_by_monitor(SIGKILL);
  CHECK(silent.kind == Kind::unknown);
  CHECK(silent.text.starts_with("QEMU is gone without a word of its end: "));
}

TEST_CASE("qmp: a client that was closed here says nothing of QEMU's end") {
  Life life;
  life.begin();
  life.client->close();
  life.until([&] { return life.seen.close.has_value(); });
  check(judge(life.seen), Kind::running, "QEMU has not ended");
  CHECK(life.qemu.wait(vmlaunch::tests::Seconds(0)) == std::nullopt);
}

}  // namespace
}  // namespace vmlaunch::qmp
