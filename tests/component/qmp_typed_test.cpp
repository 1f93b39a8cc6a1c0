#include <fcntl.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "qmp/commands.hpp"
#include "qmp/ending.hpp"
#include "qmp/schema_cache.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

using namespace vmlaunch;
using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;

namespace {

asio::awaitable<bool> has_command(const SchemaCache& cache,
                                  Client& client,
                                  std::string version,
                                  std::string command) {
  const std::string binary = "/usr/bin/qemu-system-x86_64";
  const Schema schema = co_await cache.schema(client, binary, version);
  co_return schema.has_command(command);
}

}  // namespace

TEST_CASE("qmp: vCPUs are known by their threads") {
  Conversation scene({{"-machine", "q35", "-smp", "3", "-S"}});
  scene.shake_hands();
  const std::vector<Vcpu> vcpus = scene.finish(scene.start(query_cpus(*scene.client, kLong)));
  REQUIRE(vcpus.size() == 3);
  const std::string tasks = "/proc/" + std::to_string(scene.qemu.pid()) + "/task/";
  for (std::size_t i = 0; i < vcpus.size(); ++i) {
    CHECK(vcpus[i].index == static_cast<std::int64_t>(i));
    CHECK(std::filesystem::exists(tasks + std::to_string(vcpus[i].thread)));
  }
  const RunState state = scene.finish(scene.start(query_status(*scene.client, kLong)));
  CHECK_FALSE(state.running);
  CHECK(state.name == "prelaunch");
}

TEST_CASE("qmp: a size that aborts QEMU is refused, and a good one is taken") {
  Conversation scene;
  scene.shake_hands();
  const auto add = [&](const Json& properties) {
    return add_object(*scene.client, "memory-backend-ram", "m", properties, kLong);
  };
  CHECK_THROWS_AS(add({{"size", -1}}), std::invalid_argument);
  scene.finish(scene.start(add({{"size", 16 << 20}})));
  CHECK(scene.execute("qom-get", {{"path", "/objects/m"}, {"property", "size"}}) == 16 << 20);
}

TEST_CASE("qmp: a schema is asked for once, and tells what QEMU can do") {
  const vmlaunch::tests::Folder folder;
  const SchemaCache cache(folder.file("cache"));
  Conversation scene;
  const std::string version = scene.shake_hands().version;
  std::size_t questions = 0;
  scene.client->log_to([&](Direction, const std::string& message) {
    questions += message.find("query-qmp-schema") != std::string::npos ? 1U : 0U;
  });
  for (const char* command : {"device_add", "query-yank"}) {
    CHECK(scene.finish(scene.start(has_command(cache, *scene.client, version, command))));
  }
  CHECK_FALSE(scene.finish(scene.start(has_command(cache, *scene.client, version, "no-such"))));
  CHECK(questions == 1);
}
