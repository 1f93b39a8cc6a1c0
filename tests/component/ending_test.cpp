#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

struct Ending {
  std::string word;
  int code;
  std::string text;
};

}  // namespace

TEST_CASE("ending: each way in which QEMU can end has its exit code and its words") {
  const std::vector<Ending> endings = {
      {"shutdown", 0, "the guest shut down"},
      {"watchdog", 0, "the guest's watchdog powered it off"},
      {"panic", 17, "the guest panicked"},
      {"bad-events", 0, "QEMU ended"},
      {"silent-exit", 16, "QEMU ended without a word of its end"},
      {"failing-exit", 16, "QEMU failed: exit code 1"},
      {"die=11", 16, "QEMU crashed: SIGSEGV"},
      {"die=6", 16, "QEMU crashed: SIGABRT"},
      {"fail-early", 15, "-device nonsense: no such device"},
      {"fail-after-greeting", 15, "cannot set up guest memory"},
      {"fail-late", 15, "cannot pin guest memory"},
      {"refuse-cont", 15, "not today"},
  };
  for (const Ending& ending : endings) {
    const Folder folder;
    Program program(run_of(folder, probe_config({ending.word})));
    INFO(ending.word);
    const int code = program.exit_code();
    INFO(program.output());
    CHECK(code == ending.code);
    CHECK(program.output().find(ending.text) != std::string::npos);
    CHECK(program.output().find("host restored") != std::string::npos);
    CHECK_FALSE(lives(qemu_pid(program)));
  }
}

TEST_CASE("ending: a QEMU whose monitor is lost is told of, lives on, and ends by SIGTERM") {
  for (const std::string how : {"shut-monitor", "garble-monitor"}) {
    const Folder folder;
    Program program(run_of(folder, probe_config({how})));
    INFO(how);
    REQUIRE(program.says("the connection to QEMU is lost"));
    REQUIRE(program.says("type: kill " + std::to_string(program.pid())));
    CHECK(lives(qemu_pid(program)));
    program.signal(SIGTERM);
    CHECK(program.exit_code(Seconds(20)) == 0);
    INFO(program.output());
    CHECK(program.output().find("power button") == std::string::npos);
    CHECK(program.output().find("QEMU ended, some time after its connection was lost") !=
          std::string::npos);
    CHECK(program.output().find("host restored") != std::string::npos);
  }
}

TEST_CASE("ending: a QEMU that takes long to go after its last word has not lost its monitor") {
  const Folder folder;
  Program shut(run_of(folder, probe_config({"linger", "shutdown"})));
  CHECK(shut.exit_code(Seconds(20)) == 0);
  INFO(shut.output());
  CHECK(shut.output().find("the guest shut down") != std::string::npos);
  CHECK(shut.output().find("is lost") == std::string::npos);
  Program panicked(run_of(folder, probe_config({"linger", "panic"})));
  CHECK(panicked.exit_code(Seconds(20)) == 17);
}

TEST_CASE("ending: a real QEMU killed by each signal is told by the signal's name") {
  // Those that end QEMU in order: it shuts down by itself.
  const std::vector<int> orderly = {SIGTERM, SIGINT, SIGHUP};
  const std::vector<int> harmless = {SIGCHLD, SIGURG,  SIGCONT,   SIGWINCH, SIGPIPE, SIGUSR1,
                                     SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF,  SIGIO,   SIGPWR,
                                     SIGSYS,  SIGXCPU, SIGXFSZ,   SIGTRAP,  SIGBUS,  SIGSTKFLT,
                                     SIGTSTP, SIGTTIN, SIGTTOU,   SIGSTOP};
  for (int signal = 1; signal < 32; ++signal) {
    const Folder folder;
    Program program(run_of(folder, idle_config()));
    INFO("signal " << signal);
    REQUIRE(program.says("] running"));
    REQUIRE(::kill(qemu_pid(program), signal) == 0);
    const bool is_orderly = std::count(orderly.begin(), orderly.end(), signal) > 0;
    const bool may_be_harmless = std::count(harmless.begin(), harmless.end(), signal) > 0;
    if (may_be_harmless && !program.wait(Seconds(0.5))) {
      // QEMU takes no notice, or is stopped for ever: Ctrl-C ends it all the same.
      program.signal(SIGINT);
      const int code = program.exit_code();
      INFO(program.output());
      CHECK(code == 18);
      continue;
    }
    const int code = program.exit_code();
    INFO(program.output());
    CHECK(code == (is_orderly ? 0 : 16));
    CHECK(program.output().find(is_orderly ? "by a signal from outside"
                                           : "crashed: " + base::signal_name(signal)) !=
          std::string::npos);
    CHECK_FALSE(lives(qemu_pid(program)));
  }
}

TEST_CASE("ending: a real QEMU that will not start is quoted") {
  const Folder folder;
  Json config = idle_config();
  config["cpu"]["model"] = "nonsense";
  Program program(run_of(folder, config));
  CHECK(program.exit_code() == 15);
  INFO(program.output());
  CHECK(program.output().find("unable to find CPU model 'nonsense'") != std::string::npos);
}

TEST_CASE("ending: a QEMU that never answers is given up at the deadline and ended") {
  const Folder folder;
  Program program(run_of(folder, probe_config({"no-answer"})));
  CHECK(program.exit_code(Seconds(45)) == 15);  // the plan gives 31 s for 1 GiB of memory
  INFO(program.output());
  CHECK(program.output().find("main loop") != std::string::npos);
  CHECK_FALSE(lives(qemu_pid(program)));
}

TEST_CASE("ending: a guest whose QEMU floods standard error is cut off and ends in order") {
  const Folder folder;
  Program program(run_of(folder, probe_config({"flood", "shutdown"})));
  CHECK(program.exit_code() == 0);
  CHECK(program.output().find("no more are shown") != std::string::npos);
  CHECK(program.output().find("flood 4999") == std::string::npos);
}

namespace {

/// A frozen group of the first cgroup version: what is in it does not even end when it is killed,
/// as if it were stuck in the kernel.
class Freezer {
 public:
  Freezer() { ::mkdir(folder_.c_str(), 0755); }
  Freezer(const Freezer&) = delete;
  Freezer& operator=(const Freezer&) = delete;
  ~Freezer() {
    thaw();
    eventually([&] { return ::rmdir(folder_.c_str()) == 0; });
  }

  [[nodiscard]] bool usable() const {
    return ::access((folder_ + "/freezer.state").c_str(), W_OK) == 0;
  }
  void freeze(pid_t pid) {
    std::ofstream(folder_ + "/cgroup.procs") << pid;
    std::ofstream(folder_ + "/freezer.state") << "FROZEN";
  }
  void thaw() { std::ofstream(folder_ + "/freezer.state") << "THAWED"; }

 private:
  std::string folder_ = "/sys/fs/cgroup/freezer/vmlaunch-test-" + std::to_string(::getpid());
};

}  // namespace

TEST_CASE("ending: a QEMU that does not end when killed is told as stuck, and the run ends") {
  Freezer freezer;
  if (skipped_without("root and the freezer of cgroup v1", freezer.usable())) {
    return;
  }
  const Folder folder;
  Program program(run_of(folder, probe_config({"ignore-powerdown"})));
  REQUIRE(program.says("] running"));
  const pid_t qemu = qemu_pid(program);
  freezer.freeze(qemu);
  for (int request = 0; request < 3; ++request) {
    program.signal(SIGINT);
    REQUIRE(program.says(std::vector<std::string>{
        "power button", "told to quit", "is killed"}[static_cast<std::size_t>(request)]));
  }
  CHECK(program.exit_code(Seconds(60)) == 22);
  INFO(program.output());
  CHECK(program.output().find("stuck in the kernel") != std::string::npos);
  CHECK(program.output().find("not put back: QEMU (pid " + std::to_string(qemu)) !=
        std::string::npos);
  freezer.thaw();
  CHECK(eventually([&] { return !lives(qemu); }));
}
