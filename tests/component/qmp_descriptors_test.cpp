#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "tests/component/qmp_listening.hpp"
#include "tests/component/qmp_real.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

using namespace vmlaunch::qmp;
using namespace vmlaunch::qmp::tests;
namespace base = vmlaunch::base;
namespace fs = std::filesystem;
using Fds = std::vector<base::UniqueFd>;

namespace {

/// A file in memory that /proc shows by its name.
base::UniqueFd file_named(const std::string& name) {
  return base::UniqueFd(base::check(::memfd_create(name.c_str(), MFD_CLOEXEC), "make a file"));
}

Fds fds_of(base::UniqueFd fd) {
  Fds fds;
  fds.push_back(std::move(fd));
  return fds;
}

/// What the descriptors of a process lead to.
std::vector<std::string> open_files(pid_t pid) {
  std::vector<std::string> links;
  for (const auto& entry : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code gone;  // the folder's own descriptor
    links.push_back(fs::read_symlink(entry.path(), gone));
  }
  return links;
}

std::string link_of(const std::string& name) {
  return "/memfd:" + name + " (deleted)";
}

/// How often QEMU has a file open.
long count_in(const vmlaunch::tests::RealQemu& qemu, const std::string& name) {
  const std::vector<std::string> links = open_files(qemu.pid());
  return std::count(links.begin(), links.end(), link_of(name));
}

struct Passing : Conversation {
  explicit Passing(const vmlaunch::tests::QemuSetup& setup = {}) : Conversation(setup) {
    shake_hands();
  }

  std::shared_ptr<Outcome<Json>> begin(const std::string& command, Json arguments, Fds fds) {
    return start(client->execute_with_fds(command, std::move(arguments), std::move(fds), kLong));
  }

  std::shared_ptr<Outcome<Json>> begin_getfd(const std::string& name, base::UniqueFd fd) {
    return begin("getfd", {{"fdname", name}}, fds_of(std::move(fd)));
  }

  void getfd(const std::string& name, base::UniqueFd fd) {
    finish(begin_getfd(name, std::move(fd)));
  }

  long holds(const std::string& name) { return count_in(qemu, name); }
};

}  // namespace

TEST_CASE("qmp: a descriptor goes with its command, and is closed by the one that undoes it") {
  Passing scene;
  scene.getfd("one", file_named("first"));
  CHECK(scene.holds("first") == 1);
  scene.execute("closefd", {{"fdname", "one"}});
  CHECK(scene.holds("first") == 0);
}

TEST_CASE("qmp: a name given again means the new descriptor, and the old one is closed") {
  Passing scene;
  scene.getfd("one", file_named("first"));
  scene.getfd("one", file_named("second"));
  CHECK(scene.holds("first") == 0);
  CHECK(scene.holds("second") == 1);
  scene.execute("closefd", {{"fdname", "one"}});
  CHECK(scene.holds("second") == 0);
  CHECK_THROWS_AS(scene.execute("closefd", {{"fdname", "one"}}), CommandError);
}

TEST_CASE("qmp: a descriptor whose name QEMU refuses is closed there, and the next one works") {
  Passing scene;
  CHECK_THROWS_AS(scene.getfd("1st", file_named("refused")), CommandError);
  CHECK(scene.holds("refused") == 0);
  scene.getfd("first", file_named("taken"));
  CHECK(scene.holds("taken") == 1);
}

TEST_CASE("qmp: of several descriptors with one command QEMU takes the first and closes the rest") {
  Passing scene;
  Fds fds = fds_of(file_named("first"));
  fds.push_back(file_named("second"));
  scene.finish(scene.begin("getfd", {{"fdname", "one"}}, std::move(fds)));
  CHECK(scene.holds("first") == 1);
  CHECK(scene.holds("second") == 0);
}

TEST_CASE("qmp: of two descriptors passed at the same time each gets its own name, 200 times") {
  Passing scene;
  REQUIRE(scene.client->has_oob());
  for (int i = 0; i < 200; ++i) {
    const auto a = scene.begin_getfd("a", file_named("of a"));
    const auto between = scene.start(scene.client->execute("query-name", nullptr, kLong));
    const auto b = scene.begin_getfd("b", file_named("of b"));
    CHECK(scene.finish(a) == Json::object());
    CHECK(scene.finish(between) == Json::object());
    CHECK(scene.finish(b) == Json::object());
    REQUIRE(scene.holds("of a") == 1);
    REQUIRE(scene.holds("of b") == 1);
    scene.execute("closefd", {{"fdname", "a"}});
    REQUIRE(scene.holds("of a") == 0);
    REQUIRE(scene.holds("of b") == 1);
    scene.execute("closefd", {{"fdname", "b"}});
    REQUIRE(scene.holds("of b") == 0);
  }
}

TEST_CASE("qmp: a set of descriptors has the ones that were added to it, until they are removed") {
  Passing scene;
  std::vector<std::shared_ptr<Outcome<Json>>> added;
  for (int i = 0; i < 20; ++i) {
    const std::string name = "file " + std::to_string(i);
    added.push_back(
        scene.begin("add-fd", {{"fdset-id", i}, {"opaque", name}}, fds_of(file_named(name))));
  }
  for (const auto& outcome : added) {
    scene.finish(outcome);
  }
  const Json sets = scene.execute("query-fdsets");
  REQUIRE(sets.size() == added.size());
  for (const Json& set : sets) {
    const Json& fd = set.at("fds").at(0);
    const std::string number = fd.at("fd").dump();
    CHECK(fs::read_symlink("/proc/" + std::to_string(scene.qemu.pid()) + "/fd/" + number) ==
          link_of(fd.at("opaque").get<std::string>()));
    CHECK(fd.at("opaque") == "file " + set.at("fdset-id").dump());
    scene.execute("remove-fd", {{"fdset-id", set.at("fdset-id")}});
    CHECK(scene.holds(fd.at("opaque").get<std::string>()) == 0);
  }
  CHECK(scene.execute("query-fdsets").empty());
}

TEST_CASE("qmp: a disk is opened by a descriptor that was passed") {
  constexpr long kSize = 3 * 512;
  Passing scene;
  base::UniqueFd image = file_named("disk");
  base::check(::ftruncate(image.get(), kSize), "make a file larger");
  scene.finish(scene.begin("add-fd", {{"fdset-id", 1}}, fds_of(std::move(image))));
  scene.execute("blockdev-add",
                {{"driver", "file"}, {"node-name", "disk"}, {"filename", "/dev/fdset/1"}});
  const Json nodes = scene.execute("query-named-block-nodes");
  REQUIRE(nodes.size() == 1);
  CHECK(nodes.at(0).at("image").at("virtual-size") == kSize);
}

TEST_CASE("qmp: a descriptor that was passed outlives the connection, and so does its name") {
  Listening scene;
  const Json one = {{"fdname", "one"}};
  auto visitor = scene.greeted();
  scene.finish(scene.start(
      visitor->client.execute_with_fds("getfd", one, fds_of(file_named("kept")), kLong)));
  visitor.reset();
  visitor = scene.greeted();
  CHECK(count_in(scene.qemu, "kept") == 1);
  scene.execute(*visitor, "closefd", one);
  CHECK(count_in(scene.qemu, "kept") == 0);
}

TEST_CASE("qmp: QEMU makes blocking what was passed to it") {
  Passing scene;
  auto [kept, other] = base::make_socket_pair(SOCK_STREAM);
  base::set_nonblocking(kept.get());
  scene.getfd("one", base::duplicate(kept.get()));
  CHECK((::fcntl(kept.get(), F_GETFL) & O_NONBLOCK) == 0);
  CHECK(scene.execute("query-name") == Json::object());  // the monitor's own is as it was
}

TEST_CASE("qmp: descriptors that were given to the client are closed here, sent or not") {
  const std::size_t before = open_files(::getpid()).size();
  {
    Passing scene;
    const std::size_t idle = open_files(::getpid()).size();
    scene.getfd("one", file_named("sent"));
    CHECK_THROWS_AS(scene.getfd("1st", file_named("refused by QEMU")), CommandError);
    CHECK_THROWS_AS(scene.getfd("\xff", file_named("refused here")), std::invalid_argument);
    CHECK(open_files(::getpid()).size() == idle);

    scene.qemu.signal(SIGSTOP);
    const auto first = scene.begin_getfd("two", file_named("under way"));
    const auto second = scene.start(scene.client->execute_with_fds(
        "getfd", {{"fdname", "three"}}, fds_of(file_named("given up")), 20ms));
    CHECK_THROWS_AS(scene.finish(second), Timeout);
    CHECK(open_files(::getpid()).size() == idle);

    const auto third = scene.begin_getfd("four", file_named("waiting"));
    scene.settle();
    CHECK(open_files(::getpid()).size() == idle + 1);
    scene.client->close();
    CHECK_THROWS_AS(scene.finish(first), Interrupted);
    CHECK_THROWS_AS(scene.finish(third), Interrupted);
  }
  CHECK(open_files(::getpid()).size() == before);
}
