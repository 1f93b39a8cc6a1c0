#include <fcntl.h>
#include <poll.h>
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
#include "qmp/commands.hpp"
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

  /// The set that has it.
  std::int64_t add(base::UniqueFd fd) {
    return finish(start(add_fd(*client, std::move(fd), kLong)));
  }

  void remove(std::int64_t set) { finish(start(remove_fd(*client, set, kLong))); }

  /// What the one descriptor of a set leads to.
  std::string link_in(std::int64_t set) {
    for (const Json& entry : execute("query-fdsets")) {
      if (entry.at("fdset-id") == set && entry.at("fds").size() == 1) {
        const std::string fds = "/proc/" + std::to_string(qemu.pid()) + "/fd/";
        return fs::read_symlink(fds + entry.at("fds").at(0).at("fd").dump());
      }
    }
    return "no such set";
  }

  long holds(const std::string& name) { return count_in(qemu, name); }
};

constexpr const char* kUsed = "used";
constexpr const char* kUnused = "unused";

/// Leaves QEMU, to which sets were added, one of them for a disk; the next one to come is in.
std::shared_ptr<Visitor> leave_sets_behind(Listening& scene) {
  auto visitor = scene.greeted();
  const auto used = scene.finish(scene.start(add_fd(visitor->client, file_named(kUsed), kLong)));
  scene.finish(scene.start(add_fd(visitor->client, file_named(kUnused), kLong)));
  const std::string file = "/dev/fdset/" + std::to_string(used);
  scene.execute(
      *visitor, "blockdev-add", {{"driver", "file"}, {"node-name", "disk"}, {"filename", file}});
  visitor.reset();
  return scene.greeted();
}

bool takes_bytes(int socket) {
  pollfd request{socket, POLLOUT, 0};
  return base::check(::poll(&request, 1, 0), "look at a socket") == 1;
}

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

    freeze(scene.qemu);
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

TEST_CASE("qmp: a descriptor is given by a typed call, and what QEMU refuses is an error") {
  Passing scene;
  scene.finish(scene.start(getfd(*scene.client, "one", file_named("first"), kLong)));
  CHECK(scene.holds("first") == 1);
  const auto refused = scene.start(getfd(*scene.client, "1st", file_named("refused"), kLong));
  CHECK_THROWS_AS(scene.finish(refused), CommandError);
  CHECK(scene.holds("refused") == 0);
  scene.finish(scene.start(getfd(*scene.client, "one", file_named("second"), kLong)));
  CHECK(scene.holds("first") == 0);
  scene.execute("closefd", {{"fdname", "one"}});
  CHECK(scene.holds("second") == 0);
}

TEST_CASE("qmp: the set that a typed call tells has the descriptor, until it is removed") {
  Passing scene;
  const std::int64_t first = scene.add(file_named("first"));
  const std::int64_t second = scene.add(file_named("second"));
  CHECK(scene.link_in(first) == link_of("first"));
  CHECK(scene.link_in(second) == link_of("second"));
  scene.remove(first);
  CHECK(scene.holds("first") == 0);
  CHECK(scene.link_in(second) == link_of("second"));
  CHECK_THROWS_AS(scene.remove(first), CommandError);
  scene.remove(second);
  CHECK(scene.execute("query-fdsets").empty());
}

TEST_CASE("qmp: a set that is removed while the guest is paused stays until it is removed again") {
  Passing scene;
  scene.execute("stop");
  const std::int64_t set = scene.add(file_named("kept"));
  scene.remove(set);
  scene.remove(set);
  CHECK(scene.link_in(set) == link_of("kept"));
  scene.execute("cont");
  CHECK(scene.link_in(set) == link_of("kept"));
  scene.remove(set);
  CHECK(scene.holds("kept") == 0);
  CHECK_THROWS_AS(scene.remove(set), CommandError);
}

TEST_CASE("qmp: when the last client leaves a running guest, the sets that nothing uses are gone") {
  Listening scene;
  const auto next = leave_sets_behind(scene);
  CHECK(count_in(scene.qemu, kUnused) == 0);
  CHECK(count_in(scene.qemu, kUsed) >= 1);
  CHECK(scene.execute(*next, "query-fdsets").size() == 1);
}

TEST_CASE("qmp: sets outlive their client in a paused guest, and while another monitor is in use") {
  Listening paused({"-machine", "none", "-S"});
  const auto heir = leave_sets_behind(paused);
  CHECK(count_in(paused.qemu, kUnused) == 1);
  CHECK(paused.execute(*heir, "query-fdsets").size() == 2);

  const vmlaunch::tests::Folder folder;
  const std::string other = folder.file("other");
  Listening shared({"-machine",
                    "none",
                    "-chardev",
                    "socket,id=other,path=" + other + ",server=on,wait=off",
                    "-mon",
                    "chardev=other,mode=control"});
  const auto stays = shared.finish(shared.start(visit(shared.context, other, kLong)));
  shared.shake_hands(*stays);
  const auto next = leave_sets_behind(shared);
  CHECK(count_in(shared.qemu, kUnused) == 1);
  CHECK(shared.execute(*next, "query-fdsets").size() == 2);
}

TEST_CASE("qmp: a descriptor that its command does not take is not that of the next one") {
  Passing scene;
  scene.finish(scene.begin("query-name", nullptr, fds_of(file_named("stray"))));
  CHECK(scene.holds("stray") == 1);
  scene.getfd("one", file_named("own"));
  CHECK(scene.holds("stray") == 0);
  CHECK(scene.holds("own") == 1);
}

TEST_CASE("qmp: QEMU closes a descriptor that no command took when its client leaves") {
  Listening scene;
  auto visitor = scene.greeted();
  const std::size_t idle = open_files(scene.qemu.pid()).size();
  scene.finish(scene.start(
      visitor->client.execute_with_fds("query-name", nullptr, fds_of(file_named("stray")), kLong)));
  CHECK(count_in(scene.qemu, "stray") == 1);
  visitor.reset();
  visitor = scene.greeted();
  CHECK(count_in(scene.qemu, "stray") == 0);
  CHECK(open_files(scene.qemu.pid()).size() == idle);
}

TEST_CASE("qmp: a command that goes out in parts has its descriptor, and so has the next one") {
  // Longer than the socket takes at once, though QEMU reads nothing meanwhile.
  const std::string long_name = "a" + std::string(65536, 'x');
  vmlaunch::tests::RealQemu qemu;
  base::UniqueFd socket = qemu.take_monitor();
  make_send_buffer_small(socket.get());
  const base::UniqueFd copy = base::duplicate(socket.get());
  Loop loop;
  Visitor visitor(loop.context, std::move(socket));
  loop.finish(loop.start(visitor.client.handshake(kLong)));
  freeze(qemu);
  const auto first = loop.start(getfd(visitor.client, long_name, file_named("first"), kLong));
  const auto second = loop.start(getfd(visitor.client, "b", file_named("second"), kLong));
  loop.settle();
  REQUIRE_FALSE(takes_bytes(copy.get()));
  qemu.signal(SIGCONT);
  loop.finish(first);
  loop.finish(second);
  CHECK(count_in(qemu, "first") == 1);
  CHECK(count_in(qemu, "second") == 1);
  const Json which = {{"fdname", long_name}};
  loop.finish(loop.start(visitor.client.execute("closefd", which, kLong)));
  CHECK(count_in(qemu, "first") == 0);
  CHECK(count_in(qemu, "second") == 1);
}
