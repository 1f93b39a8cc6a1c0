#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/errors.hpp"
#include "launcher/steps/state_folders.hpp"
#include "launcher/survey/cgroup.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

/// What a run of `config` has of its own on the host.
struct Traces {
  explicit Traces(const Json& config) : vm(config.at("name")) {
    const auto folders = launcher::steps::find_state_folders();
    journal = folders.journal + "/" + vm;
    lock = folders.locks + "/" + vm + ".lock";
    const auto parent = launcher::survey::find_cgroup_parent(base::Tree(""), ::geteuid() == 0);
    cgroup = parent ? *parent + "/vmlaunch-" + vm : "";
  }
  ~Traces() { ::unlink(journal.c_str()); }
  Traces(const Traces&) = delete;
  Traces& operator=(const Traces&) = delete;

  [[nodiscard]] bool none() const {
    return !std::filesystem::exists(journal) && !std::filesystem::exists(lock) &&
           (cgroup.empty() || !std::filesystem::exists(cgroup));
  }

  std::string vm;
  std::string journal;
  std::string lock;
  std::string cgroup;
};

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Any run of root's puts back what dead ones have left: those of other tests shall not see ours.
/// For this process and its children, for good.
void hide_own_folders() {
  if (::geteuid() != 0) {
    return;
  }
  base::check(::unshare(CLONE_NEWNS), "leave the host's mounts");
  base::check(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), "keep mounts here");
  for (const char* folder : {"/var/lib/vmlaunch", "/run/vmlaunch"}) {
    std::filesystem::create_directories(folder);
    base::check(::mount("tmpfs", folder, "tmpfs", 0, "mode=0700"), "hide a folder");
  }
}

/// A run of `config` whose guardian was killed; what it had done is left.
struct DeadRun {
  explicit DeadRun(const Json& config = probe_config()) : traces(config) {
    hide_own_folders();
    Program program(run_of(folder, config));
    REQUIRE(program.says("] running"));
    if (!traces.cgroup.empty()) {
      const std::string own = text_of("/proc/" + std::to_string(qemu_pid(program)) + "/cgroup");
      INFO(own);
      CHECK(own.find("0::/vmlaunch-" + traces.vm + "\n") != std::string::npos);
    }
    REQUIRE(::kill(guardian_pid(program), SIGKILL) == 0);
    CHECK(program.exit_code() == 20);
    INFO(program.output());
    CHECK(program.output().find("type: vmlaunch recover " + traces.vm) != std::string::npos);
    CHECK(std::filesystem::exists(traces.journal));
    CHECK((traces.cgroup.empty() || std::filesystem::exists(traces.cgroup)));
  }

  Folder folder;
  Traces traces;
};

}  // namespace

TEST_CASE("recover: puts back what a killed guardian left, and --dry-run only says it") {
  if (skipped_without_root()) {
    return;
  }
  const DeadRun dead;
  const Traces& traces = dead.traces;
  Program dry(command_of({"recover", "--dry-run", traces.vm}));
  CHECK(dry.exit_code() == 0);
  CHECK(dry.output().starts_with(traces.vm + ": would undo: start QEMU: "));
  CHECK(std::filesystem::exists(traces.journal));
  Program recover(command_of({"recover", traces.vm}));
  CHECK(recover.exit_code() == 0);
  INFO(recover.output());
  CHECK(recover.output().ends_with(traces.vm + ": host restored\n"));
  CHECK(traces.none());
  Program again(command_of({"recover", traces.vm}));
  CHECK(again.exit_code() == 0);
  CHECK(again.output() == traces.vm + ": nothing to put back\n");
}

TEST_CASE("recover: plan and check tell what a start would put back first, and change nothing") {
  if (skipped_without_root()) {
    return;
  }
  const DeadRun dead;
  const Traces& traces = dead.traces;
  const std::string journal = text_of(traces.journal);
  for (const char* verb : {"check", "plan"}) {
    INFO(verb);
    Program program(command_of({verb, dead.folder.file("vm.json")}));
    CHECK(program.exit_code() == 0);
    INFO(program.output());
    CHECK(program.output().find("left by an earlier run of " + traces.vm +
                                ", put back first: start QEMU: ") != std::string::npos);
    CHECK(text_of(traces.journal) == journal);
  }
  Program recover(command_of({"recover", traces.vm}));
  CHECK(recover.exit_code() == 0);
}

TEST_CASE("recover: the next start does it first, and says so") {
  if (skipped_without_root()) {
    return;
  }
  const Json config = probe_config({"guest-shutdown"});
  Json lasting = config;
  lasting["qemu"]["extra_args"] = Json::array();
  const DeadRun dead(lasting);
  const Traces& traces = dead.traces;
  Program next(run_of(dead.folder, config));
  REQUIRE(next.says("] running"));
  next.signal(SIGINT);
  CHECK(next.exit_code() == 0);
  INFO(next.output());
  CHECK(next.output().find("left by an earlier run of " + traces.vm +
                           ", put back now: start QEMU: ") != std::string::npos);
  CHECK(traces.none());
}

TEST_CASE("recover: a VM that runs is left alone, and its name is taken") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const Json config = probe_config();
  const Traces traces(config);
  Program first(run_of(folder, config));
  REQUIRE(first.says("] running"));
  const std::string guardian = std::to_string(guardian_pid(first));
  for (const char* verb : {"run", "check"}) {
    INFO(verb);
    Program second(command_of({verb, folder.file("vm.json")}));
    CHECK(second.exit_code() == 21);
    CHECK(second.output().find(
              "Cannot start " + traces.vm + ": it runs already (its guardian is pid " + guardian +
              "; to shut it down, type: kill " + std::to_string(first.pid()) +
              "); stop it first, or give this VM another name") != std::string::npos);
  }
  const std::string journal = text_of(traces.journal);
  for (std::vector<std::string> words :
       {std::vector<std::string>{"recover"}, {"recover", "--dry-run"}}) {
    INFO(words.back());
    Program all(command_of(words));
    CHECK(all.exit_code() == 0);
    CHECK(all.output().empty());
    words.push_back(traces.vm);
    Program named(command_of(words));
    CHECK(named.exit_code() == 21);
    CHECK(named.output().find(traces.vm + " runs (its guardian is pid " + guardian) !=
          std::string::npos);
  }
  CHECK(text_of(traces.journal) == journal);
  CHECK(lives(qemu_pid(first)));
  first.signal(SIGINT);
  CHECK(first.exit_code() == 0);
  CHECK(traces.none());
}

TEST_CASE("recover: a journal with garbage is reported and kept, and no run begins over it") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const Json config = probe_config();
  const Traces traces(config);
  launcher::steps::make_state_folders(launcher::steps::find_state_folders());
  std::ofstream(traces.journal) << "00000000 {\"step\": \"rm -rf /\"}\n";
  REQUIRE(::chmod(traces.journal.c_str(), 0600) == 0);
  for (const auto& arguments : {std::vector<std::string>{"recover", traces.vm},
                                {"recover", "--dry-run", traces.vm},
                                {"check", folder.write("vm.json", config.dump())},
                                {"run", folder.write("vm.json", config.dump())}}) {
    INFO(arguments[0]);
    Program program(command_of(arguments));
    CHECK(program.exit_code() == 20);
    INFO(program.output());
    CHECK(program.output().find("Cannot use the journal " + traces.journal) != std::string::npos);
    CHECK(text_of(traces.journal) == "00000000 {\"step\": \"rm -rf /\"}\n");
  }
}

TEST_CASE("recover: a user's runs have journals of their own") {
  if (skipped_without_root()) {
    return;
  }
  constexpr uid_t kUser = 12345;
  const Folder folder;
  const Folder state;
  REQUIRE(::chown(state.path().c_str(), kUser, kUser) == 0);
  Json config = probe_config();
  config["qemu"]["binary"] = folder.copy(PROBE_PROGRAM, "probe");
  const std::string vm = config.at("name");
  const std::string journal = state.path() + "/vmlaunch/journal/" + vm;
  const std::string program = folder.copy(VMLAUNCH_PROGRAM, "vmlaunch");
  const auto as_user = [&](const std::vector<std::string>& arguments) {
    Launch launch = command_of(arguments);
    launch.arguments[0] = program;
    launch.uid = kUser;
    launch.environment = {"XDG_STATE_HOME=" + state.path()};
    return launch;
  };
  Program run(as_user({folder.write("vm.json", config.dump())}));
  REQUIRE(run.says("] running"));
  REQUIRE(std::filesystem::exists(journal));
  REQUIRE(::kill(guardian_pid(run), SIGKILL) == 0);
  CHECK(run.exit_code() == 20);
  Program others(command_of({"recover", "--dry-run"}));
  CHECK(others.exit_code() == 0);
  CHECK(others.output().find(vm) == std::string::npos);
  Program recover(as_user({"recover"}));
  CHECK(recover.exit_code() == 0);
  INFO(recover.output());
  CHECK(recover.output().find(vm + ": host restored\n") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(journal));
}

TEST_CASE("recover: a lock that cannot be taken is told, and nothing is begun") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const Json config = probe_config();
  const Traces traces(config);
  launcher::steps::make_state_folders(launcher::steps::find_state_folders());
  REQUIRE(::mkdir(traces.lock.c_str(), 0700) == 0);
  Program program(run_of(folder, config));
  CHECK(program.exit_code() == 1);
  INFO(program.output());
  CHECK(program.output().find(traces.lock + ": Is a directory") != std::string::npos);
  CHECK_FALSE(std::filesystem::exists(traces.journal));
  REQUIRE(::rmdir(traces.lock.c_str()) == 0);
}

TEST_CASE("recover: a name that is none is refused") {
  for (const char* name : {"../x", "", ".", "a/b"}) {
    INFO(name);
    Program program(command_of({"recover", name}));
    CHECK(program.exit_code() == 2);
  }
}
