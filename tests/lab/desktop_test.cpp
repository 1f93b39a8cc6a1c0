#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "tests/lab/device_vm.hpp"
#include "tests/lab/host_snapshot.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

namespace {

namespace fs = std::filesystem;

bool runs(const std::string& command) {
  return std::system(command.c_str()) == 0;
}

bool is_active(const std::string& unit) {
  return runs("systemctl is-active --quiet " + unit);
}

/// What the consoles that draw on framebuffers say of themselves, in their order.
std::string graphical_consoles() {
  std::string bound;
  for (const auto& entry : fs::directory_iterator("/sys/class/vtconsole")) {
    if (contents(entry.path() / "name").find("frame buffer") != std::string::npos) {
      bound += contents(entry.path() / "bind");
    }
  }
  return bound;
}

Json boot_gpu_config() {
  Json config = probe_with({{{"device", device::boot_gpu}}});
  config["single_gpu"] = true;
  return config;
}

/// Units that a case writes are here.
const std::string kUnits = "/run/systemd/system/";

/// A unit that runs while this lives.
class RunningUnit {
 public:
  RunningUnit(const std::string& name, const std::string& service) : name_(name) {
    std::ofstream(kUnits + name) << "[Service]\n" << service;
    REQUIRE(runs("systemctl daemon-reload && systemctl start " + name));
  }
  RunningUnit(const RunningUnit&) = delete;
  RunningUnit& operator=(const RunningUnit&) = delete;
  ~RunningUnit() {
    static_cast<void>(runs("systemctl stop " + name_ + " && rm " + kUnits + name_ +
                           " && systemctl daemon-reload"));
  }

  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  std::string name_;
};

/// A link that is there while this lives.
class Link {
 public:
  Link(const std::string& target, std::string path) : path_(std::move(path)) {
    fs::create_symlink(target, path_);
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() { fs::remove(path_); }

 private:
  std::string path_;
};

/// A display manager's stand-in: it cannot start before the card has its driver, and then has the
/// card open.
class Desktop {
 public:
  Desktop()
      : alias_(kUnits + kName, "/etc/systemd/system/display-manager.service"),
        unit_(kName,
              "Type=exec\n"
              "ExecStartPre=test -e /sys/bus/pci/drivers/bochs-drm/" +
                  device::boot_gpu + "\nStandardInput=file:/dev/dri/" + card() +
                  "\nExecStart=sleep infinity\n") {}

  [[nodiscard]] bool runs_now() const { return is_active(kName); }

 private:
  static constexpr const char* kName = "lab-desktop.service";

  static std::string card() {
    for (const auto& entry :
         fs::directory_iterator("/sys/bus/pci/devices/" + device::boot_gpu + "/drm")) {
      if (const std::string name = entry.path().filename(); name.starts_with("card")) {
        return name;
      }
    }
    return "none";
  }

  Link alias_;  // before the unit is known: one that runs cannot be given another name
  RunningUnit unit_;
};

/// The command of "…; type: sudo COMMAND", for who is root already and wants to see its output.
std::string command_in(const std::string& output) {
  const std::string marker = "type: sudo systemd-run ";
  const std::size_t start = output.find(marker);
  REQUIRE(start != std::string::npos);
  const std::size_t end = output.find('\n', start);
  return "exec systemd-run --wait --pipe " +
         output.substr(start + marker.size(), end - start - marker.size());
}

}  // namespace

TEST_CASE("desktop: the boot GPU is given without the console, and both come back",
          "[intel][intel-6.12][amd][systemd]") {
  REQUIRE(graphical_consoles() == "1");
  const Folder folder;
  const HostSnapshot before = host_snapshot();
  Program program(run_of(folder, boot_gpu_config()));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(driver_of(device::boot_gpu) == kVfio);
  CHECK(graphical_consoles() == "0");
  CHECK(said(program, "take the host's console off the screen"));
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
  CHECK(said(program, "host restored"));
  CHECK(driver_of(device::boot_gpu) == "bochs-drm");
  CHECK(graphical_consoles() == "1");
  CHECK(lasting_difference(before) == "");
}

TEST_CASE("desktop: a run in the session that it would end is refused, and its advice works",
          "[systemd]") {
  const Desktop desktop;
  const Folder folder;
  const Json config = boot_gpu_config();
  const std::string file = folder.write("vm.json", config.dump());
  const HostSnapshot before = host_snapshot();
  Launch within;
  within.arguments = {"/usr/bin/systemd-run",
                      "--scope",
                      "--quiet",
                      "--slice=user-12345.slice",
                      "--unit=session-77.scope",
                      VMLAUNCH_PROGRAM,
                      file};
  Program refused(within);
  CHECK(refused.exit_code() == 10);
  INFO(refused.output());
  CHECK(said(refused, "it was started in a login session (session-77.scope)"));
  CHECK(desktop.runs_now());

  Launch outside;
  outside.arguments = {"/bin/sh", "-c", command_in(refused.output())};
  Program program(outside);
  const bool running = program.says("] running");
  UNSCOPED_INFO(program.output());
  REQUIRE(running);
  CHECK_FALSE(desktop.runs_now());
  CHECK(driver_of(device::boot_gpu) == kVfio);
  CHECK(runs("systemctl stop vmlaunch-" + config["name"].get<std::string>()));
  CHECK(program.exit_code() == 0);
  CHECK(said(program, "host restored"));
  CHECK(desktop.runs_now());
  CHECK(runs("systemctl stop user-12345.slice"));
  CHECK(lasting_difference(before) == "");
}

TEST_CASE("desktop: a unit that was stopped runs again, whoever of the run is killed",
          "[systemd]") {
  const RunningUnit unit("lab-helper.service", "ExecStart=/bin/sleep infinity\n");
  const Folder folder;
  Json config = probe_config();
  config["stop_units"] = {unit.name()};
  const HostSnapshot before = host_snapshot();
  for (const char* victim : {"nobody", "the supervisor", "the guardian", "both"}) {
    INFO(victim);
    const std::string who = victim;
    Program program(run_of(folder, config));
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    CHECK_FALSE(is_active(unit.name()));
    const pid_t guardian = guardian_pid(program);
    if (who == "nobody") {
      program.signal(SIGTERM);
    } else {
      ::kill(who == "the guardian" ? guardian : program.pid(), SIGKILL);
    }
    if (who == "both") {
      ::kill(guardian, SIGKILL);
    }
    static_cast<void>(program.exit_code());
    CHECK(eventually([&] { return is_active(unit.name()); }, Seconds(30)));
    CHECK(lasting_difference(before) == "");
  }
}

TEST_CASE("desktop: a VM's cgroup lies in the guardian's unit, and no other is written",
          "[systemd]") {
  const Folder folder;
  const Json config = probe_config();
  const HostSnapshot before = host_snapshot();
  Program program(run_of(folder, config));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(said(
      program,
      "make the cgroup vmlaunch-" + config["name"].get<std::string>() + " in the guardian's unit"));
  int within = 0;
  for (const auto& [name, value] : host_snapshot()) {
    const auto known = before.find(name);
    if (!name.starts_with("/sys/fs/cgroup/") || (known != before.end() && known->second == value)) {
      continue;
    }
    INFO(name << " = " << value);
    const bool is_ours = name.starts_with("/sys/fs/cgroup/vmlaunch-guardian-");
    CHECK(is_ours);
    within += is_ours ? 1 : 0;
  }
  CHECK(within > 0);
  const std::string group = contents("/proc/" + std::to_string(qemu_pid(program)) + "/cgroup");
  CHECK(group.starts_with("0::/vmlaunch-guardian-"));
  CHECK(group.ends_with(".service/vmlaunch-" + config["name"].get<std::string>()));
  program.signal(SIGTERM);
  CHECK(program.exit_code() == 0);
}
