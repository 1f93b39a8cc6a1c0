#include <fstream>
#include <string>
#include <variant>
#include <vector>

#include <boost/asio/cancellation_signal.hpp>
#include <boost/system/system_error.hpp>

#include "qmp/operations.hpp"
#include "tests/component/qmp_raw.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;
using vmlaunch::tests::eventually;
using vmlaunch::tests::QemuSetup;
using vmlaunch::tests::RealQemu;

namespace {

using Words = std::vector<std::string>;

/// A machine whose processors never run, with devices that can be pulled out.
QemuSetup machine() {
  return {{"-machine",
           "pc,accel=tcg",
           "-S",
           "-device",
           "piix3-usb-uhci",
           "-device",
           "usb-tablet,id=tablet",
           "-device",
           "virtio-rng-pci,id=rng"}};
}

/// The next messages after a command: names of events, "reply" for its reply.
Words told(RawMonitor& raw, const std::string& command, const Json& arguments, unsigned count) {
  raw.send_command(command, arguments, 2);
  Words words;
  while (words.size() < count) {
    const Json message = raw.message();
    REQUIRE(message.is_object());
    words.push_back(message.value("event", "reply"));
  }
  return words;
}

Completion execute_until(Conversation& scene,
                         const std::string& command,
                         const Json& arguments,
                         const EventFilter& event) {
  return scene.finish(
      scene.start(execute_and_wait(*scene.client, command, arguments, event, kLong)));
}

/// KiB that a process has in memory.
long memory_of(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; status >> word;) {
    if (word == "VmRSS:") {
      long amount = 0;
      status >> amount;
      return amount;
    }
  }
  return 0;
}

constexpr int kLarge = 32;            // replies of 200 KB
constexpr long kMemoryOfMany = 4096;  // KiB that QEMU takes at least if nobody reads them

/// As many commands with large replies as can be under way, whose callers go away.
void abandon_eight(Conversation& scene) {
  asio::cancellation_signal cancel;
  for (int i = 0; i < 8; ++i) {
    const auto call =
        scene.start(scene.client->execute("query-qmp-schema", nullptr, kLong), cancel.slot());
    scene.settle();
    cancel.emit(asio::cancellation_type::terminal);
    CHECK_THROWS_AS(scene.finish(call), boost::system::system_error);
  }
  CHECK(scene.execute("query-name") == Json::object());
}

}  // namespace

TEST_CASE("qmp: QEMU tells of most changes before the reply to what changed, of some after it") {
  RealQemu qemu(machine());
  RawMonitor raw(qemu.take_monitor());
  raw.negotiate();
  CHECK(told(raw, "cont", nullptr, 2) == Words{"RESUME", "reply"});
  CHECK(told(raw, "cont", nullptr, 1) == Words{"reply"});
  CHECK(told(raw, "stop", nullptr, 2) == Words{"STOP", "reply"});
  CHECK(told(raw, "system_reset", nullptr, 2) == Words{"RESET", "reply"});
  CHECK(told(raw, "device_del", {{"id", "tablet"}}, 2) == Words{"reply", "DEVICE_DELETED"});
}

TEST_CASE("qmp: a command is complete with its event, in whichever order that and the reply come") {
  Conversation scene(machine());
  scene.shake_hands();
  const auto event_after = [&](const char* command, const char* name) {
    return execute_until(scene, command, nullptr, {{name}}).event.name;
  };
  CHECK(event_after("cont", "RESUME") == "RESUME");
  CHECK(event_after("stop", "STOP") == "STOP");
  CHECK(event_after("system_reset", "RESET") == "RESET");
  const Json tablet = {{"id", "tablet"}};
  CHECK(execute_until(scene, "device_del", tablet, {{"DEVICE_DELETED"}}).event.data.at("device") ==
        "tablet");
  CHECK_THROWS_AS(scene.execute("device_del", tablet), CommandError);
}

TEST_CASE("qmp: a PCI device is gone when its own event comes, not that of its parts") {
  Conversation scene(machine());
  scene.shake_hands();
  const auto is_of_device = [](const Event& event) { return event.data.contains("device"); };
  const auto gone = scene.start(execute_and_wait(
      *scene.client, "device_del", {{"id", "rng"}}, {{"DEVICE_DELETED"}, is_of_device}, kLong));
  scene.execute("query-name");
  CHECK_FALSE(gone->done);  // it is the guest that lets go of it, or a reset
  scene.execute("system_reset");
  CHECK(scene.finish(gone).event.data.at("device") == "rng");
  CHECK(scene.events == Words{"RESET", "DEVICE_DELETED", "DEVICE_DELETED"});
}

TEST_CASE("qmp: a reader of events that does not read delays nobody, and learns what it lost") {
  constexpr int kRounds = 100;
  Conversation scene;
  scene.shake_hands();
  Subscription events = scene.client->subscribe({}, 4);
  for (int i = 0; i < kRounds; ++i) {
    scene.execute("stop");
    scene.execute("cont");
  }
  CHECK(scene.events.size() == 2 * kRounds);
  for (const char* name : {"STOP", "RESUME", "STOP", "RESUME"}) {
    CHECK(std::get<Event>(scene.finish(scene.start(events.next()))).name == name);
  }
  CHECK(std::get<Lost>(scene.finish(scene.start(events.next()))).count == 2 * kRounds - 4);
  scene.execute("stop");
  CHECK(std::get<Event>(scene.finish(scene.start(events.next()))).name == "STOP");
}

TEST_CASE("qmp: QEMU keeps all replies that nobody reads in its memory") {
  RealQemu qemu;
  RawMonitor raw(qemu.take_monitor());
  raw.negotiate();
  raw.send_command("query-qmp-schema", nullptr, 2);
  REQUIRE(raw.message().is_object());  // the first takes memory of its own
  const long before = memory_of(qemu.pid());
  for (int i = 0; i < kLarge; ++i) {
    raw.send_command("query-qmp-schema", nullptr, 2);
  }
  CHECK(eventually([&] { return memory_of(qemu.pid()) - before > kMemoryOfMany; },
                   std::chrono::seconds(30)));
}

TEST_CASE("qmp: replies that nobody waits for any more are read all the same") {
  Conversation scene;
  scene.shake_hands();
  abandon_eight(scene);
  const long before = memory_of(scene.qemu.pid());
  for (int i = 0; i < kLarge; i += 8) {
    abandon_eight(scene);
  }
  CHECK(scene.client->counters().late_replies == kLarge + 8);
  CHECK(memory_of(scene.qemu.pid()) - before < kMemoryOfMany);
}
