#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "qmp/schema_cache.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"
#include "tests/unit/qmp_scene.hpp"

namespace vmlaunch::qmp {
namespace {

using namespace tests;
using vmlaunch::tests::Folder;

constexpr const char* kSchema = R"([{"name": "stop", "meta-type": "command", "arg-type": "0"}])";

/// A QEMU, a program's file and a folder for the cache.
class Cached {
 public:
  Cached() : binary(folder.write("qemu", "#!/bin/sh")) { scene.shake_hands(); }

  /// Whether QEMU was asked.
  bool asks(const std::string& version = "7.2.22") {
    const auto call = scene.start(ask(version));
    scene.settle();
    const bool asked = !call->done;
    if (asked) {
      scene.send(answer(scene.line(), kSchema));
    }
    CHECK(scene.finish(call));
    return asked;
  }

  /// Whether what came can be asked.
  asio::awaitable<bool> ask(std::string version) {
    const Schema schema = co_await cache.schema(*scene.client, binary, version);
    co_return schema.has_command("stop");
  }

  [[nodiscard]] std::string file() const {
    std::string found;
    for (const auto& entry : std::filesystem::directory_iterator(folder.file("a/cache"))) {
      REQUIRE(found.empty());
      found = entry.path();
    }
    return found;
  }

  Folder folder;
  std::string binary;
  SchemaCache cache{folder.file("a/cache")};
  Scene scene;
};

TEST_CASE("schema cache: QEMU is asked once for a binary", "[qmp]") {
  Cached it;
  CHECK(it.asks());
  CHECK_FALSE(it.asks());
  struct stat status {};
  REQUIRE(::stat(it.folder.file("a/cache").c_str(), &status) == 0);
  CHECK((status.st_mode & 0777U) == 0700);
  REQUIRE(::stat(it.file().c_str(), &status) == 0);
  CHECK((status.st_mode & 0777U) == 0600);
}

TEST_CASE("schema cache: it is asked again when the binary or its version changed", "[qmp]") {
  Cached it;
  CHECK(it.asks());
  CHECK(it.asks("9.2.0"));
  CHECK_FALSE(it.asks("9.2.0"));
  it.folder.write("qemu", "#!/bin/bash");
  CHECK(it.asks("9.2.0"));
  CHECK_FALSE(it.asks("9.2.0"));
  CHECK_FALSE(it.file().empty());  // still one
}

void set_time(const std::string& file, time_t seconds, long nanoseconds) {
  const std::array<timespec, 2> times = {{{0, UTIME_OMIT}, {seconds, nanoseconds}}};
  REQUIRE(::utimensat(AT_FDCWD, file.c_str(), times.data(), 0) == 0);
}

TEST_CASE("schema cache: a binary is the file behind all links, and when it was written", "[qmp]") {
  Cached it;
  const std::string one = it.binary;
  const std::string other = it.folder.write("other", "#!/bin/sh");
  set_time(one, 1000, 1);
  set_time(other, 1000, 1);
  it.binary = it.folder.file("link");
  std::filesystem::create_symlink(one, it.binary);
  CHECK(it.asks());
  CHECK_FALSE(it.asks());
  std::filesystem::remove(it.binary);
  std::filesystem::create_symlink(other, it.binary);
  CHECK(it.asks());
  CHECK_FALSE(it.asks());
  set_time(other, 1000, 2);
  CHECK(it.asks());
  CHECK_FALSE(it.asks());
  std::filesystem::resize_file(other, 5);
  set_time(other, 1000, 2);
  CHECK(it.asks());
  CHECK_FALSE(it.asks());
}

TEST_CASE("schema cache: what another process with this one's id writes is left alone", "[qmp]") {
  Cached it;
  CHECK(it.asks());
  const std::string theirs = it.file() + "." + std::to_string(::getpid());
  base::write_all(base::open_file(theirs, O_WRONLY | O_CREAT, 0600).get(), "half", theirs);
  CHECK(it.asks("9.2.0"));
  CHECK_FALSE(it.asks("9.2.0"));
  CHECK(base::read_file(theirs) == "half");
}

TEST_CASE("schema cache: a file that is not right is as good as none", "[qmp]") {
  Cached it;
  CHECK(it.asks());
  const std::string file = it.file();
  const std::string good = base::read_file(file);
  for (const std::string& bad : {std::string(),
                                 good.substr(0, good.size() / 2),
                                 std::string("[]"),
                                 std::string(R"({"binary": {}, "schema": 1})"),
                                 std::string("\xff\0x", 3)}) {
    std::filesystem::remove(file);
    base::write_all(base::open_file(file, O_WRONLY | O_CREAT, 0600).get(), bad, file);
    CHECK(it.asks());
    CHECK_FALSE(it.asks());
  }
}

TEST_CASE("schema cache: one that cannot be kept, or has no binary, costs only time", "[qmp]") {
  Cached it;
  it.folder.write("a", "a file in the folder's place");
  CHECK(it.asks());
  CHECK(it.asks());
  std::filesystem::remove(it.folder.file("a"));
  it.binary = it.folder.file("not there");
  CHECK(it.asks());
  CHECK(it.asks());
  CHECK(it.folder.names() == std::vector<std::string>{"qemu"});
  it.binary = it.folder.file("qemu");
  CHECK(it.asks());
  const std::string file = it.file();
  std::filesystem::remove(file);
  std::filesystem::create_directories(file + "/folder");
  CHECK(it.asks());
  CHECK(it.file() == file);  // and nothing beside it
}

}  // namespace
}  // namespace vmlaunch::qmp
