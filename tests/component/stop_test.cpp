#include <chrono>
#include <csignal>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

TEST_CASE("stop: SIGINT, SIGTERM and SIGHUP press the power button once") {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const Folder folder;
    Program program(run_of(folder, probe_config()));
    INFO("signal " << signal);
    REQUIRE(program.says("] running"));
    program.signal(signal);
    CHECK(program.exit_code() == 0);
    INFO(program.output());
    CHECK(program.output().find("probe: power button") != std::string::npos);
    CHECK(program.output().find("the guest shut down") != std::string::npos);
  }
}

TEST_CASE("stop: what the parent ignored or blocked does not deafen it") {
  const Folder folder;
  Launch launch = run_of(folder, probe_config());
  const std::vector<std::string> deaf = {
      "/usr/bin/env", "--ignore-signal=CHLD", "--block-signal=INT,TERM,HUP,CHLD"};
  launch.arguments.insert(launch.arguments.begin(), deaf.begin(), deaf.end());
  Program program(launch);
  REQUIRE(program.says("] running"));
  program.signal(SIGTERM);
  CHECK(program.exit_code(Seconds(10)) == 0);
  INFO(program.output());
  CHECK(program.output().find("the guest shut down") != std::string::npos);
}

TEST_CASE("stop: a guest that ignores the power button is quit after the deadline") {
  const Folder folder;
  Program program(run_of(folder, idle_config()));
  REQUIRE(program.says("] running"));
  program.signal(SIGINT);
  CHECK(program.exit_code() == 18);
  INFO(program.output());
  CHECK(program.output().find("QEMU is told to quit") != std::string::npos);
  CHECK(program.output().find("did not shut down in time") != std::string::npos);
}

TEST_CASE("stop: the second request quits at once and the third kills, both as asked") {
  Json config = idle_config();
  config["stop"]["timeout"] = "10m";
  for (const int requests : {2, 3}) {
    const Folder folder;
    Program program(run_of(folder, config));
    INFO(requests << " requests");
    REQUIRE(program.says("] running"));
    program.signal(SIGINT);
    REQUIRE(program.says("power button pressed"));
    ::kill(qemu_pid(program), requests == 3 ? SIGSTOP : 0);
    program.signal(SIGINT);
    if (requests == 3) {
      REQUIRE(program.says("told to quit"));
      program.signal(SIGINT);
    }
    CHECK(program.exit_code(Seconds(10)) == 0);
    INFO(program.output());
    CHECK(program.output().find(requests == 2 ? "ended as asked" : "killed as asked") !=
          std::string::npos);
  }
}

TEST_CASE("stop: a QEMU that ignores everything but SIGKILL is killed, rung by rung") {
  const Folder folder;
  Program program(run_of(folder, probe_config({"ignore-powerdown", "ignore-quit", "ignore-term"})));
  REQUIRE(program.says("] running"));
  program.signal(SIGTERM);
  CHECK(program.exit_code(Seconds(30)) == 18);
  const std::string& said = program.output();
  INFO(said);
  const std::vector<std::string> rungs = {
      "power button pressed", "told to quit", "SIGTERM", "is killed"};
  std::size_t last = 0;
  for (const std::string& rung : rungs) {
    const std::size_t found = said.find(rung, last);
    INFO(rung);
    REQUIRE(found != std::string::npos);
    last = found;
  }
}

TEST_CASE("stop: a request during the start ends QEMU before the guest runs") {
  const Folder folder;
  Program program(run_of(folder, probe_config({"no-answer"})));
  REQUIRE(program.says("paused: pid"));
  program.signal(SIGINT);
  CHECK(program.exit_code(Seconds(10)) == 0);
  INFO(program.output());
  CHECK(program.output().find("stopped before the guest ran") != std::string::npos);
}

TEST_CASE("stop: during the start, too, the second request kills at once") {
  const Folder folder;
  Program program(run_of(folder, probe_config({"no-answer", "ignore-term", "ignore-quit"})));
  REQUIRE(program.says("paused: pid"));
  const pid_t qemu = qemu_pid(program);
  program.signal(SIGINT);
  REQUIRE(program.says("told to quit"));
  program.signal(SIGINT);
  CHECK(program.exit_code(Seconds(5)) == 0);
  INFO(program.output());
  CHECK(program.output().find("stuck") == std::string::npos);
  CHECK_FALSE(lives(qemu));
}

TEST_CASE("stop: a timeout of nothing quits at once, and is no kill") {
  const Folder folder;
  Json config = idle_config();
  config["stop"]["timeout"] = "0s";
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  program.signal(SIGINT);
  CHECK(program.exit_code(Seconds(5)) == 0);
}

TEST_CASE("stop: the demo guest hears the power button and powers off") {
  const Folder folder;
  Program program(run_of(folder, guest_config("demo.stay")));
  REQUIRE(program.says("vmlaunch demo guest: ready", Seconds(120)));
  program.signal(SIGINT);
  CHECK(program.exit_code() == 0);
  INFO(program.output());
  CHECK(program.output().find("vmlaunch demo guest: power button") != std::string::npos);
  CHECK(program.output().find("the guest shut down") != std::string::npos);
}
