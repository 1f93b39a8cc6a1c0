#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "tests/component/qmp_listening.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;

namespace {

/// Commands that several callers share, each with an answer of its own.
struct Tally {
  int total = 0;
  int begun = 0;
  int right = 0;
};

constexpr int kObjects = 64;

std::string object(int number) {
  return "o" + std::to_string(number % kObjects);
}

void make_objects(Conversation& scene) {
  for (int i = 0; i < kObjects; ++i) {
    scene.execute("object-add",
                  {{"qom-type", "authz-simple"}, {"id", object(i)}, {"identity", object(i)}});
  }
}

asio::awaitable<void> ask_for_value(Client& client, int number, Tally& tally) {
  const Json property = {{"path", "/objects/" + object(number)}, {"property", "identity"}};
  const Json answer = co_await client.execute("qom-get", property, kLong);
  tally.right += answer == object(number) ? 1 : 0;
}

asio::awaitable<void> ask_for_error(Client& client, int number, Tally& tally) {
  const std::string command = "c" + std::to_string(number);
  try {
    co_await client.execute(command, nullptr, kLong);
  } catch (const CommandError& error) {
    tally.right += error.description() == "The command " + command + " has not been found" ? 1 : 0;
  }
}

asio::awaitable<bool> ask(Client& client, Tally& tally) {
  while (tally.begun < tally.total) {
    const int number = tally.begun++;
    if (number % 2 == 0) {
      co_await ask_for_value(client, number, tally);
    } else {
      co_await ask_for_error(client, number, tally);
    }
  }
  co_return true;
}

void execute_many(int total) {
  Conversation scene;
  scene.shake_hands();
  make_objects(scene);
  Tally tally{total};
  std::vector<std::shared_ptr<Outcome<bool>>> callers;
  for (int i = 0; i < 8; ++i) {
    callers.push_back(scene.start(ask(*scene.client, tally)));
  }
  for (const auto& caller : callers) {
    while (!caller->done) {
      scene.context.restart();
      REQUIRE(scene.context.run_one_for(kLong) > 0);
    }
    CHECK(caller->get());
  }
  CHECK(tally.right == total);
  const Session::Counters& dropped = scene.client->counters();
  CHECK(dropped.invalid + dropped.late_replies + dropped.unknown_ids == 0);
}

std::ptrdiff_t descriptors_of(pid_t pid) {
  const std::filesystem::directory_iterator entries("/proc/" + std::to_string(pid) + "/fd");
  return std::distance(begin(entries), end(entries));
}

}  // namespace

TEST_CASE("qmp: of 20000 commands, eight at a time, each gets its own reply") {
  execute_many(20000);
}

TEST_CASE("qmp: of 100000 commands, eight at a time, each gets its own reply", "[full]") {
  execute_many(100000);
}

TEST_CASE("qmp: 2000 connections one after the other leave no descriptor behind") {
  Listening scene;
  auto visitor = scene.greeted();
  const auto ours = descriptors_of(::getpid());
  const auto of_qemu = descriptors_of(scene.qemu.pid());
  for (int i = 0; i < 2000; ++i) {
    visitor.reset();
    visitor = scene.greeted();
    REQUIRE(scene.execute(*visitor, "query-name") == Json::object());
  }
  CHECK(descriptors_of(::getpid()) == ours);
  CHECK(descriptors_of(scene.qemu.pid()) == of_qemu);
}
