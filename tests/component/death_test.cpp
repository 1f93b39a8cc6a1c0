#include <csignal>
#include <fstream>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

struct Processes {
  pid_t qemu;
  pid_t guardian;
};

Processes processes_of(const Program& program) {
  return {qemu_pid(program), guardian_pid(program)};
}

bool gone(const Processes& processes, Seconds limit) {
  return eventually([&] { return !lives(processes.qemu) && !lives(processes.guardian); }, limit);
}

}  // namespace

TEST_CASE("death: when the supervisor is killed the guest is powered down and nothing is left") {
  const Folder folder;
  Json config = guest_config("demo.stay");
  config["serial"] = {{"file", "serial.log"}};
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  const std::string log = folder.file("serial.log");
  REQUIRE(eventually(
      [&] {
        std::ifstream file(log);
        return std::string(std::istreambuf_iterator<char>(file), {}).find("guest: ready") !=
               std::string::npos;
      },
      Seconds(120)));
  const Processes processes = processes_of(program);
  REQUIRE(processes.guardian > 0);
  program.signal(SIGKILL);
  CHECK(program.exit_code() == 137);
  CHECK(gone(processes, Seconds(60)));
  std::ifstream file(log);
  const std::string serial(std::istreambuf_iterator<char>(file), {});
  INFO(serial);
  CHECK(serial.find("vmlaunch demo guest: power button") != std::string::npos);
  CHECK(serial.find("Power down") != std::string::npos);
  INFO(program.output());
  CHECK(program.says("the guest has ended", Seconds(1)));
}

TEST_CASE("death: a guest that hears no power button is ended after the supervisor's death") {
  const Folder folder;
  Program program(run_of(folder, idle_config()));
  REQUIRE(program.says("] running"));
  const Processes processes = processes_of(program);
  program.signal(SIGKILL);
  CHECK(program.exit_code() == 137);
  CHECK(gone(processes, Seconds(20)));
}

TEST_CASE("death: a QEMU that ignores all but SIGKILL is killed after the supervisor's death") {
  const Folder folder;
  Program program(run_of(
      folder, probe_config({"ignore-powerdown", "ignore-quit", "ignore-term", "survive-eof"})));
  REQUIRE(program.says("] running"));
  const Processes processes = processes_of(program);
  program.signal(SIGKILL);
  CHECK(program.exit_code() == 137);
  CHECK(gone(processes, Seconds(30)));
}

TEST_CASE("death: a supervisor killed before the guest runs leaves nothing") {
  const Folder folder;
  Program program(run_of(folder, probe_config({"no-answer"})));
  REQUIRE(program.says("paused: pid"));
  const Processes processes = processes_of(program);
  program.signal(SIGKILL);
  CHECK(program.exit_code() == 137);
  CHECK(gone(processes, Seconds(20)));
}

TEST_CASE("death: when the guardian is killed QEMU is gone within a second") {
  const Folder folder;
  Program program(run_of(folder, idle_config()));
  REQUIRE(program.says("] running"));
  const Processes processes = processes_of(program);
  REQUIRE(::kill(processes.guardian, SIGKILL) == 0);
  CHECK(gone(processes, Seconds(1)));
  CHECK(program.exit_code(Seconds(5)) == 20);
  INFO(program.output());
  CHECK(program.output().find("the guardian died") != std::string::npos);
}

TEST_CASE("death: when both are killed at once QEMU is gone within a second") {
  const Folder folder;
  Program program(run_of(folder, idle_config()));
  REQUIRE(program.says("] running"));
  const Processes processes = processes_of(program);
  program.signal(SIGKILL);
  REQUIRE(::kill(processes.guardian, SIGKILL) == 0);
  CHECK(gone(processes, Seconds(1)));
  CHECK(program.exit_code() == 137);
}

TEST_CASE("death: a rescuer does not outlive the guardian") {
  const Folder folder;
  Json config = idle_config();
  config["stop"]["timeout"] = "10m";
  Program program(run_of(folder, config));
  REQUIRE(program.says("] running"));
  const Processes processes = processes_of(program);
  program.signal(SIGKILL);
  CHECK(program.exit_code() == 137);
  std::vector<pid_t> children;
  REQUIRE(eventually([&] {
    children = children_of(processes.guardian);
    return children.size() == 2;
  }));
  REQUIRE(::kill(processes.guardian, SIGKILL) == 0);
  CHECK(eventually([&] { return !lives(children[0]) && !lives(children[1]); }, Seconds(1)));
}
