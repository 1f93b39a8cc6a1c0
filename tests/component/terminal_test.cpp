#include <sys/ioctl.h>
#include <termios.h>

#include <csignal>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

TEST_CASE("terminal: what is typed reaches the guest's shell and Ctrl-C stops the guest") {
  const Folder folder;
  Launch launch = run_of(folder, guest_config("demo.shell"));
  launch.terminal = true;
  Program program(launch);
  REQUIRE(program.says("vmlaunch demo guest: ready", Seconds(120)));
  termios mode{};
  REQUIRE(::tcgetattr(program.terminal(), &mode) == 0);
  CHECK((mode.c_lflag & ECHO) == 0U);
  CHECK((mode.c_lflag & ISIG) != 0U);
  program.type("echo $((6*7))x\r");
  CHECK(program.says("42x"));
  program.type("\x03");
  CHECK(program.exit_code() == 0);
  INFO(program.output());
  CHECK(program.output().find("the guest shut down") != std::string::npos);
}

TEST_CASE("terminal: its modes are put back at the end") {
  const Folder folder;
  Json config = probe_config({"die=11"});
  config["serial"] = "stdio";
  Launch launch = run_of(folder, config);
  launch.terminal = true;
  Program program(launch);
  termios before{};
  termios after{};
  REQUIRE(::tcgetattr(program.terminal(), &before) == 0);
  CHECK(program.exit_code() == 16);
  REQUIRE(::tcgetattr(program.terminal(), &after) == 0);
  CHECK(before.c_lflag == after.c_lflag);
  CHECK(before.c_iflag == after.c_iflag);
}

TEST_CASE("terminal: a hang-up is a graceful stop") {
  const Folder folder;
  Json config = idle_config();
  config["serial"] = "stdio";
  Launch launch = run_of(folder, config);
  launch.terminal = true;
  Program program(launch);
  REQUIRE(program.says("] running"));
  const pid_t qemu = qemu_pid(program);
  program.hang_up();
  CHECK(program.exit_code(Seconds(20)) == 18);  // nothing in this guest hears the power button
  CHECK_FALSE(lives(qemu));
}

TEST_CASE("terminal: an output that nobody reads holds up nothing") {
  const Folder folder;
  Program program(run_of(folder, probe_config({"flood"})));
  // Nothing is read from here on: the pipe is full after 64 KiB of flood.
  REQUIRE(eventually([&] { return children_of(program.pid()).size() == 1; }));
  REQUIRE(eventually([&] { return children_of(guardian_pid(program)).size() == 1; }));
  const pid_t qemu = children_of(guardian_pid(program)).front();
  program.signal(SIGINT);
  CHECK(eventually([&] { return !lives(qemu); }, Seconds(20)));
  CHECK(program.exit_code(Seconds(20)) == 0);
}

TEST_CASE("terminal: closed standard streams are no obstacle") {
  const Folder folder;
  Json config = probe_config({"shutdown"});
  config["serial"] = "stdio";
  const Launch run = run_of(folder, config);
  for (int closed = 1; closed < 8; ++closed) {
    std::string line = std::string("exec ") + VMLAUNCH_PROGRAM + " " + run.arguments[1];
    line += (closed & 1) != 0 ? " <&-" : "";
    line += (closed & 2) != 0 ? " >&-" : "";
    line += (closed & 4) != 0 ? " 2>&-" : "";
    Launch launch;
    launch.arguments = {"/bin/sh", "-c", line};
    Program program(launch);
    INFO(line);
    CHECK(program.exit_code() == 0);
  }
}
