#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <set>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

bool said_restored(const Program& program) {
  return program.output().find("host restored") != std::string::npos;
}

/// Descriptors of this process: each run hands some of its own to a child.
auto open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return std::distance(begin(all), end(all));
}

}  // namespace

TEST_CASE("guest: the demo config boots, says hello and ends with exit code 0") {
  Program program(command_of({SOURCE_DIR "/configs/demo.json"}));
  const int code = program.exit_code(Seconds(120));
  const std::string& said = program.output();
  INFO(said);
  CHECK(code == 0);
  for (const std::string text : {"vmlaunch demo guest: hello",
                                 "cpus: 2",
                                 "memory: ",
                                 "pci 0000:00:00.0 8086:29c0",
                                 "plan sealed",
                                 "running",
                                 "the guest shut down",
                                 "host restored"}) {
    INFO(text);
    CHECK(said.find(text) != std::string::npos);
  }
}

TEST_CASE("guest: disks and NICs of the config are what the guest sees") {
  const Folder folder;
  Json config = guest_config("demo.ping=10.0.2.2");
  folder.write("data.img", std::string(std::size_t{16} << 20U, '\0'));
  config["disks"] = {{{"path", "data.img"}, {"format", "raw"}, {"readonly", true}}};
  config["network"] = {{{"user", Json::object()}, {"mac", "52:54:00:12:34:99"}}};
  Program program(run_of(folder, config));
  const int code = program.exit_code(Seconds(120));
  INFO(program.output());
  CHECK(code == 0);
  CHECK(program.output().find("disk vda 16 MiB") != std::string::npos);
  CHECK(program.output().find("52:54:00:12:34:99") != std::string::npos);
  CHECK(program.output().find("ping 10.0.2.2 answered") != std::string::npos);
  CHECK(program.output().find("QEMU tried") == std::string::npos);
  CHECK(program.output().find("pci 0000:00:04.0 1af4:1001") != std::string::npos);
}

TEST_CASE("guest: a panic is exit code 17") {
  const Folder folder;
  Json config = guest_config("demo.panic");
  config["qemu"]["extra_args"] = {"-device", "pvpanic"};
  Program program(run_of(folder, config));
  const int code = program.exit_code(Seconds(120));
  INFO(program.output());
  CHECK(code == 17);
}

TEST_CASE("guest: a VNC display answers on its port and a forward listens, on this machine only") {
  const Folder folder;
  Json config = idle_config();
  config["display"] = {{"vnc", "127.0.0.1:5977"}};
  config["network"] = {{{"user", {{"forwards", {"127.0.0.1:5978:22"}}}}}};
  Program program(run_of(folder, config));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(std::system("bash -c 'exec 5<>/dev/tcp/127.0.0.1/5977 && head -c 3 <&5 | grep -q RFB'") ==
        0);
  CHECK(std::system("bash -c 'exec 5<>/dev/tcp/127.0.0.1/5978'") == 0);
  CHECK(program.output().find("QEMU tried") == std::string::npos);
  program.signal(SIGINT);
  CHECK(program.exit_code() == 18);
}

TEST_CASE("guest: 200 runs in a row leave no process, no descriptor and no file") {
  const Folder folder;
  const Json config = brief_config(folder);
  const Launch launch = run_of(folder, config);
  const std::vector<std::string> files = folder.names();
  const auto fds = open_descriptors();
  for (int run = 0; run < 200; ++run) {
    pid_t qemu = -1;
    {
      Program program(launch);
      const int code = program.exit_code();
      INFO("run " << run << "\n" << program.output());
      REQUIRE(code == 0);
      qemu = qemu_pid(program);
    }
    REQUIRE(qemu > 0);
    REQUIRE_FALSE(lives(qemu));
    REQUIRE(children_of(::getpid()).empty());
  }
  CHECK(folder.names() == files);
  CHECK(open_descriptors() == fds);
  CHECK(processes_naming(folder.path()).empty());
}

TEST_CASE("guest: one that reboots gets a QEMU of its own in the same run, if the config says so") {
  const Folder folder;
  Json config = guest_config("demo.reboot");
  config["on_reboot"] = "restart";
  Program program(run_of(folder, config));
  const bool thrice = program.says_often("] running", 3, Seconds(120));
  INFO(program.output());
  REQUIRE(thrice);
  std::set<long> qemus;
  const std::string marker = "paused: pid ";
  const std::string& all = program.output();
  for (std::size_t at = all.find(marker); at != std::string::npos; at = all.find(marker, at + 1)) {
    qemus.insert(std::strtol(all.c_str() + at + marker.size(), nullptr, 10));
  }
  CHECK(qemus.size() >= 3);
  CHECK_FALSE(said_restored(program));
  program.signal(SIGTERM);
  program.signal(SIGTERM);
  CHECK(program.exit_code(Seconds(60)) == 0);
  CHECK(said_restored(program));
  for (const long qemu : qemus) {
    CHECK_FALSE(lives(static_cast<pid_t>(qemu)));
  }
}

TEST_CASE("guest: what is asked of a run while a guest reboots ends it") {
  const Folder folder;
  Json config = guest_config("demo.reboot");
  config["on_reboot"] = "restart";
  Program program(run_of(folder, config));
  const bool rebooted = program.says("the guest reboots", Seconds(60));
  program.signal(SIGINT);
  const int code = program.exit_code(Seconds(100));
  INFO(program.output());
  REQUIRE(rebooted);
  CHECK(code == 0);
  CHECK(said_restored(program));
}
