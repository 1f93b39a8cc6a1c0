#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <boost/asio/cancellation_signal.hpp>
#include <boost/system/system_error.hpp>

#include "base/process.hpp"
#include "tests/component/qmp_raw.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/component/qmp_tampered.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/unreadable.hpp"

using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;
namespace base = vmlaunch::base;
using vmlaunch::tests::QemuSetup;
using vmlaunch::tests::RealQemu;

namespace {

const char* const kName = "gä😀\x7f";

QemuSetup named() {
  return {{"-machine", "none", "-name", kName}};
}

std::string utf8(unsigned code_point) {
  const auto tail = [code_point](unsigned shift) {
    return static_cast<char>(0x80U | ((code_point >> shift) & 0x3fU));
  };
  if (code_point < 0x80) {
    return {static_cast<char>(code_point)};
  }
  if (code_point < 0x800) {
    return {static_cast<char>(0xc0U | (code_point >> 6U)), tail(0)};
  }
  if (code_point < 0x10000) {
    return {static_cast<char>(0xe0U | (code_point >> 12U)), tail(6), tail(0)};
  }
  return {static_cast<char>(0xf0U | (code_point >> 18U)), tail(12), tail(6), tail(0)};
}

/// All of the first plane that QEMU reads, and what is next to the limits of the others.
std::vector<std::string> readable_texts() {
  std::vector<std::string> texts = {"", utf8(0x10000) + utf8(0x1f600) + utf8(0x10fffd)};
  std::string text;
  for (unsigned code_point = 1; code_point <= 0xfffd; ++code_point) {
    const bool surrogate = code_point >= 0xd800 && code_point <= 0xdfff;
    const bool noncharacter = code_point >= 0xfdd0 && code_point <= 0xfdef;
    if (!surrogate && !noncharacter) {
      text += utf8(code_point);
    }
    if (text.size() > 8192) {
      texts.push_back(std::exchange(text, ""));
    }
  }
  texts.push_back(text);
  return texts;
}

}  // namespace

TEST_CASE("qmp: QEMU answers what its parser refuses by errors without an id") {
  RealQemu qemu;
  RawMonitor raw(qemu.take_monitor());
  raw.negotiate();
  for (const std::string& text : kUnreadable) {
    INFO(text.size() << " bytes, the first is " << int{static_cast<unsigned char>(text[0])});
    raw.send(R"({"execute":"query-name","arguments":{"x":")" + text + "\"},\"id\":2}\n");
    raw.send_command("query-name", nullptr, 3);
    Json answer = raw.message();
    unsigned without_id = 0;
    for (; answer.is_object() && !answer.contains("id"); answer = raw.message()) {
      CHECK(answer.contains("error"));
      ++without_id;
    }
    CHECK(without_id > 0);
    CHECK(answer == Json{{"return", Json::object()}, {"id", 3}});
  }
}

TEST_CASE("qmp: what QEMU's parser refuses is refused before a byte is sent") {
  Conversation scene(named());
  scene.shake_hands();
  std::vector<Json> refused = {{{"command-line", std::numeric_limits<double>::infinity()}},
                               {{"command-line", std::numeric_limits<double>::quiet_NaN()}},
                               Json::array({"help"})};
  for (const std::string& text : kUnreadable) {
    refused.push_back({{"command-line", text}});
    refused.push_back({{text, "help"}});
    CHECK_THROWS_AS(scene.execute(text), std::invalid_argument);
  }
  Json deep = 0;
  for (int i = 0; i < 1025; ++i) {
    deep = Json::array({std::move(deep)});
  }
  refused.push_back({{"command-line", deep}});
  for (const Json& arguments : refused) {
    CHECK_THROWS_AS(scene.execute("human-monitor-command", arguments), std::invalid_argument);
  }
  // QEMU answers in order, so that an answer to any of it would be counted or taken for this one.
  CHECK(scene.execute("query-name").at("name") == kName);
  CHECK(scene.client->counters().unknown_ids == 0);
  CHECK(scene.closes.empty());
}

TEST_CASE("qmp: what QEMU's parser accepts arrives as it was meant, and so does what it says") {
  Conversation scene(named());
  scene.shake_hands();
  CHECK(scene.execute("query-name").at("name") == kName);
  scene.execute("object-add", {{"qom-type", "authz-simple"}, {"id", "a"}, {"identity", "x"}});
  Json place = {{"path", "/objects/a"}, {"property", "identity"}};
  for (const std::string& text : readable_texts()) {
    Json change = place;
    change["value"] = text;
    scene.execute("qom-set", change);
    CHECK(scene.execute("qom-get", place) == text);
  }
}

TEST_CASE("qmp: QEMU's error about a value is that command's, whatever characters are in it") {
  Conversation scene;
  scene.shake_hands();
  const Json odd = {{"qom-type", "iothread"}, {"id", "fädchen"}};
  CHECK_THROWS_AS(scene.execute("object-add", odd), CommandError);
  CHECK_THROWS_AS(scene.execute("wörk😀\x01"), CommandError);
  CHECK(scene.execute("human-monitor-command", {{"command-line", "nö\x01"}}) ==
        "unknown command: 'nö\x01'\r\n");
}

TEST_CASE("qmp: an error without an id fails one command, and the others get their own replies") {
  Tampered scene(named());
  scene.shake_hands();
  Blockade blockade;
  const auto held = scene.start(scene.client.execute("blockdev-add", blockade.node(), kLong));
  const auto before = scene.start(scene.client.execute("query-name", nullptr, kLong));
  scene.settle();
  scene.raw.send("\xff");
  const auto charged = scene.start(scene.client.execute("query-version", nullptr, kLong));
  const auto behind = scene.start(scene.client.execute("query-name", nullptr, kLong));
  scene.settle();
  blockade.lift();
  CHECK(scene.finish(held) == Json::object());
  CHECK(scene.finish(before).at("name") == kName);
  CHECK_THROWS_AS(scene.finish(charged), CommandError);
  CHECK(scene.finish(behind).at("name") == kName);
  CHECK(scene.execute("query-name").at("name") == kName);
  CHECK(scene.client.counters().unknown_ids == 1);
}

TEST_CASE("qmp: behind nine commands in order QEMU lets one out of band wait, behind eight not") {
  for (const unsigned queued : {7U, 8U}) {
    RealQemu qemu;
    RawMonitor raw(qemu.take_monitor());
    raw.negotiate();
    Blockade blockade;
    raw.send_command("blockdev-add", blockade.node(), 2);
    for (Id id = 3; id < 3 + queued; ++id) {
      raw.send_command("query-name", nullptr, id);
    }
    raw.send(encode_command("query-yank", nullptr, 100, Band::out_of_band));
    const bool passes = queued == 7;
    const Json early = raw.message(passes ? kLong : 500ms);
    CHECK(early.is_object() == passes);
    blockade.lift();
    CHECK((passes ? early : raw.message()).at("id") == (passes ? 100 : 2));
  }
}

TEST_CASE("qmp: a command out of band is answered within 100 ms while 20 in order wait") {
  Conversation scene(named());
  scene.shake_hands();
  Blockade blockade;
  const auto held = scene.start(scene.client->execute("blockdev-add", blockade.node(), kLong));
  std::vector<std::shared_ptr<Outcome<Json>>> waiting;
  for (int i = 0; i < 19; ++i) {
    const Json line = {{"command-line", "c" + std::to_string(i)}};
    waiting.push_back(scene.start(scene.client->execute("human-monitor-command", line, kLong)));
  }
  scene.settle();
  std::vector<Clock::duration> times;
  for (int i = 0; i < 9; ++i) {
    const auto start = Clock::now();
    CHECK(scene.finish(scene.start(scene.client->execute_oob("query-yank", nullptr, kLong)))
              .is_array());
    times.push_back(Clock::now() - start);
  }
  std::nth_element(times.begin(), times.begin() + 4, times.end());
  CHECK(times[4] < 100ms);
  CHECK_FALSE(held->done);
  blockade.lift();
  CHECK(scene.finish(held) == Json::object());
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    CHECK(scene.finish(waiting[i]) == "unknown command: 'c" + std::to_string(i) + "'\r\n");
  }
}

TEST_CASE("qmp: a command whose caller is cancelled in the middle of its write harms no other") {
  Tampered scene(named());
  make_send_buffer_small(scene.socket.get());
  scene.shake_hands();
  freeze(scene.qemu);
  asio::cancellation_signal cancel_begun;
  asio::cancellation_signal cancel_queued;
  const Json line = {{"command-line", std::string(65536, 'x')}};
  const Json thread = {{"qom-type", "iothread"}, {"id", "t"}};
  const auto begun =
      scene.start(scene.client.execute("human-monitor-command", line, kLong), cancel_begun.slot());
  const auto queued =
      scene.start(scene.client.execute("object-add", thread, kLong), cancel_queued.slot());
  scene.settle();
  cancel_begun.emit(asio::cancellation_type::terminal);
  cancel_queued.emit(asio::cancellation_type::terminal);
  CHECK_THROWS_AS(scene.finish(begun), boost::system::system_error);
  CHECK_THROWS_AS(scene.finish(queued), boost::system::system_error);
  const auto good = scene.start(scene.client.execute("query-name", nullptr, kLong));
  scene.settle();
  scene.qemu.signal(SIGCONT);
  CHECK(scene.finish(good).at("name") == kName);
  CHECK(scene.client.counters().late_replies == 1);
  CHECK(scene.execute("object-add", thread) == Json::object());  // is not there yet
}

TEST_CASE("qmp: late replies are dropped and counted, and nobody else gets them") {
  Conversation scene(named());
  scene.shake_hands();
  Blockade blockade;
  std::vector<std::shared_ptr<Outcome<Json>>> late = {
      scene.start(scene.client->execute("blockdev-add", blockade.node(), 50ms)),
      scene.start(scene.client->execute("query-version", nullptr, 50ms)),
      scene.start(scene.client->execute("query-status", nullptr, 50ms))};
  std::size_t late_probes = 0;  // on a busy machine
  for (const auto& outcome : late) {
    const auto timeout = thrown_by<Timeout>([&] { return scene.finish(outcome); });
    late_probes += timeout.cause() == Timeout::Cause::silent ? 1U : 0U;
  }
  const auto next = scene.start(scene.client->execute("query-name", nullptr, kLong));
  scene.settle();
  blockade.lift();
  CHECK(scene.finish(next).at("name") == kName);
  CHECK(scene.client->counters().late_replies == late.size() + late_probes);
  CHECK(scene.client->counters().unknown_ids == 0);
}

TEST_CASE("qmp: a connection is taken over from wherever its last user had come") {
  Tampered scene(named(), Start::take_over);
  Blockade blockade;
  bool blocked = false;
  const std::string half = R"({"execute":"human-monitor-command","arguments":{"command-line":"a)";
  SECTION("before the greeting was read") {}
  SECTION("before anything was negotiated") {
    scene.raw.message();
  }
  SECTION("while QEMU waits for the rest of a string") {
    scene.raw.negotiate();
    scene.raw.send(half);
  }
  SECTION("while QEMU waits for the rest of a command") {
    scene.raw.negotiate();
    scene.raw.send(half + "\"");
  }
  SECTION("while QEMU executes a command") {
    scene.raw.negotiate();
    scene.raw.send_command("blockdev-add", blockade.node(), 2);
    blocked = true;
  }
  SECTION("in the middle of a reply") {
    scene.raw.negotiate();
    scene.raw.send_command("query-qmp-schema", nullptr, 2);
    std::string part(1000, ' ');
    REQUIRE(base::wait_readable(scene.socket.get(), Clock::now() + kLong));
    REQUIRE(::recv(scene.socket.get(), part.data(), part.size(), 0) > 0);
  }
  const auto greeting = scene.start(scene.client.handshake(kLong));
  scene.settle();
  if (blocked) {
    CHECK_FALSE(greeting->done);
    blockade.lift();
  }
  scene.finish(greeting);
  CHECK_FALSE(scene.client.has_oob());
  CHECK(scene.execute("query-name").at("name") == kName);
  CHECK_THROWS_AS(scene.execute("a"), CommandError);
  CHECK(scene.client.counters().late_replies == 0);
}
