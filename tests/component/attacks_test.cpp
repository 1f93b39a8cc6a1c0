// A supervisor that a guest took over has QEMU's monitor in its hands, and QEMU does what it says
// as far as it can.

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "tests/component/taken_over.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

Json file_node(const std::string& path, bool readonly) {
  return {{"driver", "file"}, {"node-name", "x"}, {"filename", path}, {"read-only", readonly}};
}

bool is_one_of(const std::string& text, const std::vector<std::string>& endings) {
  return std::any_of(endings.begin(), endings.end(), [&](const std::string& ending) {
    return text.find(ending) != std::string::npos;
  });
}

/// A server of the host's that listens under an abstract name, as X11 and D-Bus do.
base::UniqueFd listen_abstract(const std::string& name) {
  base::UniqueFd server(
      base::check(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "make a socket"));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  base::check(::bind(server.get(), reinterpret_cast<const sockaddr*>(&address), size), "bind it");
  base::check(::listen(server.get(), 1), "listen");
  return server;
}

}  // namespace

TEST_CASE("attacks: a monitor in the wrong hands opens no file of the host") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  base::check(::chmod(folder.path().c_str(), 0777), "open the folder");
  const std::string canary = folder.write("canary", "text", 0666);
  TakenOver vm;
  for (const char* path : {"/etc/shadow", "/etc/passwd", "/proc/self/maps", canary.c_str()}) {
    INFO(path);
    CHECK(is_one_of(vm.refusal("blockdev-add", file_node(path, true)), {"No such file"}));
  }
  // What it sees it can read, and nothing can be written.
  for (const std::string& path : {std::string("/usr/x"), std::string("/dev/null"), canary}) {
    INFO(path);
    const std::vector<std::string> causes = {
        "No such file", "Read-only file system", "Operation not permitted", "denied"};
    CHECK(is_one_of(vm.refusal("pmemsave", {{"val", 0}, {"size", 4096}, {"filename", path}}),
                    causes));
    CHECK(is_one_of(vm.refusal("blockdev-add", file_node(path, false)), causes));
    CHECK(is_one_of(
        vm.refusal("dump-guest-memory", {{"paging", false}, {"protocol", "file:" + path}}),
        causes));
  }
  CHECK(base::read_file(canary) == "text");
  CHECK(vm.guardian().state() == "running");
}

TEST_CASE("attacks: a monitor in the wrong hands makes no server and finds none of the host's") {
  if (skipped_without_root()) {
    return;
  }
  const std::string name = "vmlaunch-test-" + std::to_string(::getpid());
  const base::UniqueFd server = listen_abstract(name);
  for (const bool network : {false, true}) {
    TakenOver vm(network ? Json{{"network", {{{"user", Json::object()}}}}} : Json::object());
    const Json inet = {{"type", "inet"}, {"data", {{"host", "127.0.0.1"}, {"port", "59731"}}}};
    CHECK(vm.refusal("nbd-server-start", {{"addr", inet}}) != "nothing");
    const auto character = [&](const Json& address, bool is_server) {
      Json data = {{"addr", address}, {"server", is_server}};
      if (is_server) {
        data["wait"] = false;
      }
      return vm.refusal("chardev-add",
                        {{"id", "x"}, {"backend", {{"type", "socket"}, {"data", data}}}});
    };
    CHECK(character(inet, true) != "nothing");
    const Json abstract = {{"type", "unix"},
                           {"data", {{"path", name}, {"abstract", true}, {"tight", true}}}};
    CHECK(character(abstract, false) != "nothing");
    CHECK_FALSE(base::wait_readable(server.get(), std::chrono::steady_clock::now()));
    CHECK(vm.refusal("object-add",
                     {{"qom-type", "memory-backend-memfd"}, {"id", "more"}, {"size", 4096}}) !=
          "nothing");
    CHECK(vm.guardian().state() == "running");
  }
}

TEST_CASE("attacks: a monitor in the wrong hands starts no program") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  base::check(::chmod(folder.path().c_str(), 0777), "open the folder");
  TakenOver vm;
  static_cast<void>(vm.ask(
      {{"execute", "migrate"}, {"arguments", {{"uri", "exec:touch " + folder.file("canary")}}}}));
  const auto exited = vm.guardian().next();
  REQUIRE(exited.has_value());
  const base::ExitStatus status = std::get<guardian::Exited>(*exited).status;
  CHECK((status.signal == SIGSYS || status.signal == SIGKILL));
  CHECK(folder.names().empty());
}

TEST_CASE("attacks: what a run makes is made through no link of a user's") {
  if (skipped_without_root()) {
    return;
  }
  const Folder roots;
  base::check(::chmod(roots.path().c_str(), 0755), "open the folder");
  const std::string canary = roots.write("canary", "text", 0644);
  const auto refused = [&](const char* what, const std::string& target, bool hard) {
    INFO(what << " " << target << " " << hard);
    const Folder persons;
    const std::string link = persons.file("link");
    hard ? std::filesystem::create_hard_link(target, link)
         : std::filesystem::create_symlink(target, link);
    Json config = idle_config();
    if (what == std::string("serial")) {
      config["serial"] = {{"file", link}};
    } else {
      config["firmware"] = {{"uefi", true}, {"vars", link}};
    }
    Launch launch = run_of(persons, config);
    launch.arguments.insert(launch.arguments.begin() + 1, {"--as", "12345"});
    for (const std::string& path : {persons.path(), launch.arguments.back()}) {
      base::check(::chown(path.c_str(), kPerson, kPerson), "give it away");
    }
    Program program(launch);
    const int code = program.exit_code();
    INFO(program.output());
    CHECK(code == 10);
    CHECK(program.output().find(link) != std::string::npos);
  };
  for (const char* what : {"serial", "vars"}) {
    refused(what, canary, false);
    refused(what, canary, true);
    refused(what, roots.file("new"), false);
  }
  CHECK(base::read_file(canary) == "text");
  CHECK(roots.names() == std::vector<std::string>{"canary"});
}

TEST_CASE("attacks: a config that is exchanged after it was opened is trusted no more") {
  if (skipped_without_root()) {
    return;
  }
  const auto exchange = [](const std::string& how, Sealing& sealing) {
    if (how == "another file") {
      std::filesystem::rename(sealing.folder.write("other.json", "{}"), sealing.path);
    } else if (how == "a link") {
      std::filesystem::rename(sealing.path, sealing.folder.file("moved.json"));
      std::filesystem::create_symlink("moved.json", sealing.path);
    } else if (how == "another owner") {
      base::check(::chown(sealing.path.c_str(), 777, 777), "give it away");
    } else {
      base::check(::chmod(sealing.path.c_str(), 0666), "open it");
    }
  };
  for (const std::string how : {"another file", "a link", "another owner", "open to all"}) {
    INFO(how);
    Sealing sealing(kPerson);
    sealing.seal.plan.qemu.user.credentials = uid(kPerson);
    exchange(how, sealing);
    Talk talk(person());
    const auto sealed = talk.seal(sealing.seal, sealing.fds());
    REQUIRE(sealed.has_value());
    REQUIRE(std::holds_alternative<guardian::Refused>(*sealed));
    const auto& refused = std::get<guardian::Refused>(*sealed);
    CHECK(refused.code == launcher::ExitCode::preflight);
    CHECK(is_one_of(refused.message, {"Cannot trust the config", "it belongs to uid 777"}));
  }
}
