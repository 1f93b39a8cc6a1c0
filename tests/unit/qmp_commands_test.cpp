#include <fcntl.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/file.hpp"
#include "qmp/commands.hpp"
#include "tests/support/catch.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;

/// Runs a call that the peer answers with `result`; what was sent.
template <typename T>
Json sent_by(Scene& scene, asio::awaitable<T> call, const std::string& result, T* got) {
  const auto outcome = scene.start(std::move(call));
  const std::string line = scene.line();
  scene.send(answer(line, result));
  *got = scene.finish(outcome);
  Json sent = Json::parse(line);
  sent.erase("id");
  return sent;
}

template <typename T>
void check_refused(Scene& scene, asio::awaitable<T> call, const std::string& result) {
  INFO(result);
  T got{};
  CHECK_THROWS_AS(sent_by(scene, std::move(call), result, &got), ProtocolError);
}

TEST_CASE("commands: the state that QEMU runs in", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  RunState state;
  CHECK(sent_by(scene,
                query_status(*scene.client, kLong),
                R"({"running":true,"singlestep":false,"status":"running"})",
                &state) == Json{{"execute", "query-status"}});
  CHECK(state.running);
  CHECK(state.name == "running");
  for (const char* strange : {"{}", "[]", "1", R"({"running":true,"status":7})"}) {
    check_refused(scene, query_status(*scene.client, kLong), strange);
  }
}

TEST_CASE("commands: vCPUs and their threads", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  std::vector<Vcpu> vcpus;
  CHECK(sent_by(scene,
                query_cpus(*scene.client, kLong),
                R"([{"thread-id":12,"cpu-index":0,"new":1},{"thread-id":13,"cpu-index":1}])",
                &vcpus) == Json{{"execute", "query-cpus-fast"}});
  REQUIRE(vcpus.size() == 2);
  CHECK(vcpus[1].index == 1);
  CHECK(vcpus[1].thread == 13);
  for (const char* strange : {
           "{}",
           "[{}]",
           "[1]",
           R"([{"thread-id":0,"cpu-index":0}])",
           R"([{"thread-id":-1,"cpu-index":0}])",
           R"([{"thread-id":4294967297,"cpu-index":0}])",
           R"([{"thread-id":18446744073709551615,"cpu-index":0}])",
           R"([{"thread-id":1.5,"cpu-index":0}])",
           R"([{"thread-id":"1","cpu-index":0}])",
       }) {
    check_refused(scene, query_cpus(*scene.client, kLong), strange);
  }
}

TEST_CASE("commands: an object's numbers are checked before anything is sent", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const Json good = {
      {"size", std::numeric_limits<std::int64_t>::max()}, {"host-nodes", {0, 1}}, {"share", true}};
  const auto added = scene.start(add_object(*scene.client, "memory-backend-ram", "m", good, kLong));
  const Json line = Json::parse(scene.line());
  Json expected = good;
  expected["qom-type"] = "memory-backend-ram";
  expected["id"] = "m";
  CHECK(line.at("execute") == "object-add");
  CHECK(line.at("arguments") == expected);
  scene.send(answer(line.dump()));
  scene.finish(added);

  for (const Json& bad : {Json{{"size", -1}},
                          Json{{"size", std::numeric_limits<std::uint64_t>::max()}},
                          Json{{"size", std::uint64_t{1} << 63U}},
                          Json{{"size", 1048576.0}},
                          Json{{"host-nodes", {0, -1}}},
                          Json{{"a", {{"b", -1}}}}}) {
    INFO(bad.dump());
    CHECK_THROWS_AS(add_object(*scene.client, "memory-backend-ram", "m", bad, kLong),
                    std::invalid_argument);
  }
  CHECK_THROWS_WITH(
      add_object(*scene.client, "memory-backend-ram", "m", Json{{"size", -1}}, kLong),
      "Cannot add an object with size -1: it must be a whole number from 0 to 2^63 - 1");
  CHECK(scene.nothing_more().empty());
}

TEST_CASE("commands: descriptors are given and taken back", "[qmp]") {
  Scene scene;
  scene.shake_hands();
  const auto named =
      scene.start(getfd(*scene.client, "tap", base::open_file("/dev/null", O_RDONLY), kLong));
  auto [line, fds] = scene.line_with_fds();
  CHECK(Json::parse(line).at("arguments") == Json{{"fdname", "tap"}});
  CHECK(fds.size() == 1);
  scene.send(answer(line));
  scene.finish(named);

  const auto set =
      scene.start(add_fd(*scene.client, base::open_file("/dev/null", O_RDONLY), kLong));
  std::tie(line, fds) = scene.line_with_fds();
  CHECK(fds.size() == 1);
  scene.send(answer(line, R"({"fdset-id":3,"fd":20})"));
  CHECK(scene.finish(set) == 3);

  const auto removed = scene.start(remove_fd(*scene.client, 3, kLong));
  line = scene.line();
  CHECK(Json::parse(line).at("arguments") == Json{{"fdset-id", 3}});
  scene.send(answer(line));
  scene.finish(removed);

  const auto strange =
      scene.start(add_fd(*scene.client, base::open_file("/dev/null", O_RDONLY), kLong));
  scene.send(answer(scene.line()));
  CHECK_THROWS_AS(scene.finish(strange), ProtocolError);
}

}  // namespace
}  // namespace vmlaunch::qmp
