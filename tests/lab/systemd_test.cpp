#include <pwd.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "tests/lab/device_vm.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

namespace {

const std::string kUnit = "vmlaunch-lab.service";

bool runs(const std::string& command) {
  return std::system(command.c_str()) == 0;
}

/// A user with a manager of systemd's of its own, who is gone with the object.
class Person {
 public:
  Person() {
    REQUIRE(runs("useradd --create-home " + name_));
    uid_ = ::getpwnam(name_.c_str())->pw_uid;
    REQUIRE(runs("loginctl enable-linger " + name_));
    REQUIRE(eventually([&] { return std::filesystem::exists(runtime() + "/systemd/private"); },
                       kPatience));
  }
  Person(const Person&) = delete;
  Person& operator=(const Person&) = delete;
  ~Person() {
    CHECK(runs("loginctl disable-linger " + name_));
    CHECK(runs("systemctl stop user@" + uid() + ".service user-runtime-dir@" + uid() +
               ".service user-" + uid() + ".slice"));
    CHECK(runs("userdel --remove " + name_ + " 2> /dev/null"));
  }

  /// A command of this user's, as from a login.
  [[nodiscard]] Launch launch(const std::vector<std::string>& arguments) const {
    Launch launch;
    launch.arguments = arguments;
    launch.uid = uid_;
    launch.environment = {"XDG_RUNTIME_DIR=" + runtime(),
                          "HOME=/home/" + name_,
                          "XDG_STATE_HOME=/home/" + name_ + "/.local/state"};
    return launch;
  }

  [[nodiscard]] std::string uid() const { return std::to_string(uid_); }

 private:
  [[nodiscard]] std::string runtime() const { return "/run/user/" + uid(); }

  std::string name_ = "lab-person";
  uid_t uid_ = 0;
};

/// The path of a process's cgroup below /sys/fs/cgroup.
std::string cgroup_of(pid_t pid) {
  const std::string line = contents("/proc/" + std::to_string(pid) + "/cgroup");
  return line.substr(std::min(line.size(), std::string("0::").size()));
}

/// Where a process may run, with those that are offline.
std::string cpus_allowed(pid_t pid) {
  const std::string name = "\nCpus_allowed_list:\t";
  const std::string status = contents("/proc/" + std::to_string(pid) + "/status");
  const std::size_t begin = status.find(name) + name.size();
  return status.substr(begin, status.find('\n', begin) - begin);
}

}  // namespace

TEST_CASE("systemd: a user's service has its VM in a cgroup of its own, and is stopped in order",
          "[systemd]") {
  const Person person;
  const Folder folder;
  Json config = probe_config();
  config["qemu"]["binary"] = folder.copy(PROBE_PROGRAM, "probe");
  const std::string file = folder.write("vm.json", config.dump());
  // Only the main process is told to stop: KillMode's default tells QEMU too.
  Program program(person.launch({"/usr/bin/systemd-run",
                                 "--user",
                                 "--unit=" + kUnit,
                                 "--wait",
                                 "--pipe",
                                 "--collect",
                                 "--property=Delegate=yes",
                                 "--property=KillMode=mixed",
                                 folder.copy(VMLAUNCH_PROGRAM, "vmlaunch"),
                                 file}));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  const std::string group = cgroup_of(qemu_pid(program));
  CHECK(group.starts_with("/user.slice/user-" + person.uid() + ".slice/user@" + person.uid() +
                          ".service/"));
  CHECK(group.ends_with("/" + kUnit + "/vmlaunch-" + config["name"].get<std::string>()));
  Program stop(person.launch({"/usr/bin/systemctl", "--user", "stop", kUnit}));
  CHECK(stop.exit_code() == 0);
  CHECK(program.exit_code() == 0);
  CHECK(said(program, "probe: power button"));
  CHECK(said(program, "the guest shut down"));
  CHECK(said(program, "host restored"));
  CHECK_FALSE(std::filesystem::exists("/sys/fs/cgroup" + group));
}

TEST_CASE("systemd: a guest with CPUs of its own comes first among all units", "[systemd]") {
  const Folder folder;
  Json config = idle_config();
  config["cpu"] = {{"cores", 1}, {"pin", "3"}};
  Program program(run_of(folder, config));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  const pid_t qemu = qemu_pid(program);
  const std::string group = cgroup_of(qemu);
  const std::string unit = group.substr(0, group.rfind('/'));
  CHECK(group.starts_with("/vmlaunch-guardian-"));
  CHECK(unit.rfind('/') == 0);  // beside the slices
  CHECK(contents("/sys/fs/cgroup" + unit + "/cpu.weight") == "10000");
  CHECK(contents("/sys/fs/cgroup" + group + "/cpu.weight") == "10000");
  CHECK(cgroup_of(parent_of(qemu)) == unit + "/guardian");
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
  CHECK(said(program, "host restored"));
  CHECK(eventually([&] { return !std::filesystem::exists("/sys/fs/cgroup" + unit); }, kPatience));
}

TEST_CASE("systemd: services and sessions are kept off a guest's CPUs where the kernel does not",
          "[systemd]") {
  const std::string services = "/sys/fs/cgroup/system.slice/cpuset.cpus.effective";
  const auto of_first = [] { return cpus_allowed(1); };
  REQUIRE(of_first() == "0-3");
  const Folder folder;
  Json config = idle_config();
  config["cpu"] = {{"cores", 1}, {"pin", "3"}, {"isolate", {"tasks"}}, {"weight", 200}};
  Program program(run_of(folder, config));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(said(program, "this kernel makes no isolated partition (Linux 6.8 does)"));
  CHECK(contents(services) == "0-2");
  CHECK(of_first() == "0-2");
  const pid_t qemu = qemu_pid(program);
  const std::string group = cgroup_of(qemu);
  const std::string unit = group.substr(0, group.rfind('/'));
  CHECK(contents("/sys/fs/cgroup" + unit + "/cpu.weight") == "200");
  CHECK(contents("/sys/fs/cgroup" + unit + "/cpuset.cpus.effective") == "0-3");
  CHECK(cpus_allowed(qemu) == "2");
  program.signal(SIGINT);
  program.signal(SIGINT);
  static_cast<void>(program.exit_code());
  CHECK(said(program, "host restored"));
  CHECK(eventually([&] { return of_first() == "0-3"; }, kPatience));
}
