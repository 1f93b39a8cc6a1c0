#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "qmp/commands.hpp"
#include "qmp/values.hpp"
#include "tests/component/qmp_listening.hpp"
#include "tests/component/qmp_raw.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/component/qmp_tampered.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;

namespace {

constexpr std::uint64_t kLargest = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kHalf = std::uint64_t{1} << 63U;
constexpr std::int64_t kLargestSigned = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kSmallest = std::numeric_limits<std::int64_t>::min();

/// A machine with a device and a processor that have numbers to be set, of either kind.
class Numbers : public Conversation {
 public:
  Numbers() : Conversation({{"-machine", "pc,accel=tcg", "-S", "-device", "edu,id=edu"}}) {
    shake_hands();
  }

  void set_unsigned(const Json& value) { set(kDevice, "dma_mask", value); }

  Json get_unsigned() { return execute("qom-get", {{"path", kDevice}, {"property", "dma_mask"}}); }

  /// Why QEMU refuses a number of either sign.
  std::string refusal_of_signed(const Json& value) {
    return thrown_by<CommandError>([&] {
             set(kProcessor, "family", value);
             return 0;
           })
        .description();
  }

 private:
  static constexpr const char* kDevice = "/machine/peripheral/edu";
  static constexpr const char* kProcessor = "/machine/unattached/device[0]";

  void set(const char* path, const char* property, const Json& value) {
    execute("qom-set", {{"path", path}, {"property", property}, {"value", value}});
  }
};

asio::awaitable<Json> ask_number(Client& client, int number) {
  const std::string command = kSay;
  const Json arguments = say(number);
  co_return co_await client.execute(command, arguments, kLong);
}

// QEMU reads this number as infinity, and says it as "inf".
constexpr const char* kAskWithInfinity = "{\"execute\":\"query-name\",\"id\":1e400}\n";

}  // namespace

TEST_CASE("qmp: whole numbers go to QEMU and come back as they are, up to the largest") {
  Numbers scene;
  for (const std::uint64_t number : {std::uint64_t{0},
                                     std::uint64_t{1} << 53U | 1U,
                                     kHalf - 1,
                                     kHalf,
                                     kHalf + 1,
                                     kLargest - 1,
                                     kLargest}) {
    scene.set_unsigned(number);
    const Json answer = scene.get_unsigned();
    CHECK(answer.is_number_unsigned());
    CHECK(answer == number);
  }
  for (const std::int64_t number : {std::int64_t{-1}, kSmallest, kLargestSigned}) {
    CHECK(scene.refusal_of_signed(number).find("value " + std::to_string(number) + " ") !=
          std::string::npos);
  }
}

TEST_CASE("qmp: what is no whole number for QEMU is refused there, and what there was stays") {
  Numbers scene;
  scene.set_unsigned(kHalf);
  for (const Json& number : {Json(18446744073709551616.0), Json(1.0), Json(0.5), Json("1")}) {
    CHECK_THROWS_AS(scene.set_unsigned(number), CommandError);
  }
  CHECK(scene.refusal_of_signed(kHalf).find("expected: integer") != std::string::npos);
  CHECK(scene.get_unsigned() == kHalf);
}

TEST_CASE("qmp: a number of QEMU's is taken for a signed one only if it is the same one") {
  Numbers scene;
  const auto read = [&](const Json& number) {
    scene.set_unsigned(number);
    return integer_of({{"number", scene.get_unsigned()}}, "number");
  };
  CHECK(read(kLargestSigned) == kLargestSigned);
  CHECK_FALSE(read(kHalf));
  CHECK_FALSE(read(kLargest));
  // QEMU takes it, as 2^64 - 1: why add_object does not send it.
  CHECK_FALSE(read(-1));
  CHECK(scene.get_unsigned() == kLargest);
  CHECK_FALSE(read(kSmallest));
  CHECK(scene.get_unsigned() == kHalf);
}

TEST_CASE("qmp: of sizes that no memory has QEMU gets only the one that it survives") {
  Conversation scene;
  scene.shake_hands();
  const auto add = [&](const Json& size) {
    return add_object(*scene.client, "memory-backend-ram", "m", {{"size", size}}, kLong);
  };
  for (const Json& size : {Json(-1), Json(kSmallest), Json(kHalf), Json(kLargest), Json(1e6)}) {
    CHECK_THROWS_AS(add(size), std::invalid_argument);
  }
  const auto too_large = scene.start(add(kLargestSigned));
  CHECK_THROWS_AS(scene.finish(too_large), CommandError);
  CHECK(scene.execute("query-name") == Json::object());
}

TEST_CASE("qmp: an answer of QEMU's that is no JSON costs nobody else theirs") {
  constexpr int kRounds = 8;
  Tampered scene;
  scene.shake_hands();
  std::vector<std::shared_ptr<Outcome<Json>>> answers;
  answers.reserve(kRounds);
  for (int i = 0; i < kRounds; ++i) {
    answers.push_back(scene.start(ask_number(scene.client, i)));
    scene.settle();
    scene.raw.send(kAskWithInfinity);
  }
  for (int i = 0; i < kRounds; ++i) {
    CHECK(scene.finish(answers[static_cast<std::size_t>(i)]) == said(i));
  }
  CHECK(scene.execute("query-name") == Json::object());
  CHECK(scene.client.counters().invalid == kRounds);
  CHECK(scene.client.counters().unknown_ids == 0);
}

TEST_CASE("qmp: an answer to a lost client that is no JSON does not disturb the next one") {
  Listening scene;
  Blockade blockade;
  {
    const auto socket = scene.dial();
    RawMonitor lost(vmlaunch::base::duplicate(socket->fd));
    lost.negotiate();
    const Json node = blockade.node();
    lost.send(R"({"execute":"blockdev-add","arguments":)" + node.dump() + ",\"id\":1e400}\n");
    REQUIRE(vmlaunch::tests::eventually([&] { return blockade.is_reached(); }));
  }
  const auto next = scene.dial();
  REQUIRE(next->hears_from_qemu());
  const auto greeting = scene.start(next->client.handshake(kLong));
  scene.settle();
  CHECK_FALSE(greeting->done);
  blockade.lift();
  scene.finish(greeting);
  CHECK(scene.execute(*next, kSay, say(7)) == said(7));
  CHECK(next->client.counters().invalid == 1);
  CHECK(next->closes.empty());
}
