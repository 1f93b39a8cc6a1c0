#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/text.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

constexpr uid_t kPerson = 12345;

/// How a run is started, and which uids its QEMU may then have.
struct Start {
  std::string name;
  bool as_person = false;
  std::vector<std::string> options;
  std::vector<std::string> environment;
  uid_t config_owner = 0;
  Json run_as;
  long least_uid = 0;
  long most_uid = 0;
};

std::vector<Start> starts() {
  if (!is_root()) {
    const long self = ::getuid();
    return {{"a plain user", false, {}, {}, ::getuid(), nullptr, self, self}};
  }
  return {
      {"root alone", false, {}, {}, 0, nullptr, 1890000000, 1894194304},
      {"root alone, run_as", false, {}, {}, 0, 4242, 4242, 4242},
      {"sudo", false, {}, {"SUDO_UID=12345"}, kPerson, nullptr, kPerson, kPerson},
      {"sudo, a config of root's", false, {}, {"SUDO_UID=12345"}, 0, nullptr, kPerson, kPerson},
      {"--as", false, {"--as", "12345"}, {}, kPerson, nullptr, kPerson, kPerson},
      {"--as before SUDO_UID",
       false,
       {"--as", "12345"},
       {"SUDO_UID=777"},
       kPerson,
       nullptr,
       kPerson,
       kPerson},
      {"a plain user", true, {}, {}, kPerson, nullptr, kPerson, kPerson},
  };
}

std::vector<std::string> options_and_file(const Start& start, const std::string& file) {
  std::vector<std::string> arguments = start.options;
  arguments.push_back(file);
  return arguments;
}

/// "1890001234\t1890001234\t…": the first of four equal ids.
long id_of(const Json& status, const char* field) {
  const std::string ids = status.value(field, "");
  const std::string first = ids.substr(0, ids.find('\t'));
  return ids == first + "\t" + first + "\t" + first + "\t" + first ? std::stol(first) : -1;
}

/// Namespaces that two processes do not share.
Json other_namespaces(const Json& facts, const Json& others) {
  Json names = Json::array();
  for (const auto& [name, id] : facts["namespaces"].items()) {
    if (id != others["namespaces"][name] && !name.ends_with("_for_children")) {
      names.push_back(name);
    }
  }
  return names;
}

bool is_below(const std::string& path, const std::string& folder) {
  return path == folder || path.starts_with(folder + "/");
}

/// Nodes with owner and mode, as in "/dev/null 0666 0:0".
Json nodes_in(pid_t pid) {
  Json nodes = Json::array();
  const std::string root = "/proc/" + std::to_string(pid) + "/root";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root + "/dev")) {
    struct stat info {};
    if (::lstat(entry.path().c_str(), &info) == 0 && !S_ISDIR(info.st_mode)) {
      std::array<char, 64> text{};
      static_cast<void>(std::snprintf(text.data(),
                                      text.size(),
                                      " %04o %u:%u",
                                      info.st_mode & 07777U,
                                      info.st_uid,
                                      info.st_gid));
      nodes.push_back(entry.path().string().substr(root.size()) + text.data());
    }
  }
  std::sort(nodes.begin(), nodes.end());
  return nodes;
}

/// Owner, mode and numbers of all that is in the host's /dev, as text.
std::string host_nodes() {
  std::string text;
  for (const auto& entry : std::filesystem::directory_iterator("/dev")) {
    struct stat info {};
    if (::lstat(entry.path().c_str(), &info) == 0) {
      text += base::join({entry.path().string(),
                          std::to_string(info.st_mode),
                          std::to_string(info.st_uid),
                          std::to_string(info.st_gid),
                          std::to_string(info.st_rdev) + "\n"},
                         " ");
    }
  }
  return text;
}

std::string text_of(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string status_of(pid_t pid, const std::string& field) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field + ":\t", 0) == 0) {
      return line.substr(field.size() + 2);
    }
  }
  return "";
}

}  // namespace

TEST_CASE(
    "confinement: QEMU has the uid of the plan, no capability, and nothing that was not given") {
  for (const Start& start : starts()) {
    const Folder folder;
    Json config = probe_config({});
    config["qemu"]["binary"] = folder.copy(PROBE_PROGRAM, "probe");
    config["qemu"]["extra_args"] = Json::array();  // a person's config may have none as root
    config["disks"] = {{{"path", "disk.img"}, {"format", "raw"}}};
    config["serial"] = "stdio";
    if (!start.run_as.is_null()) {
      config["run_as"] = start.run_as;
    }
    const std::string disk = folder.write("disk.img", std::string(1024, '\0'));
    const std::string file = folder.write("vm.json", config.dump(), 0644);
    REQUIRE(::chown(disk.c_str(), start.config_owner, start.config_owner) == 0);
    REQUIRE(::chown(file.c_str(), start.config_owner, start.config_owner) == 0);
    Launch launch = command_of(options_and_file(start, file));
    launch.environment = start.environment;
    launch.environment.push_back("QEMU_MODULE_DIR=/tmp/evil");
    launch.environment.push_back("LD_LIBRARY_PATH=/tmp/evil");
    if (start.as_person) {
      launch.uid = kPerson;
    }
    Program program(launch);
    INFO(start.name);
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    const Json report = facts_of(qemu_pid(program));
    const Json& status = report["status"];
    CHECK(id_of(status, "Uid") >= start.least_uid);
    CHECK(id_of(status, "Uid") <= start.most_uid);
    CHECK(id_of(status, "Gid") > 0);
    CHECK(status["Groups"] == "");
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
      CHECK(status[set] == "0000000000000000");
    }
    CHECK(status["CapBnd"] == "0000000000000000");
    CHECK(status["NoNewPrivs"] == "1");
    CHECK(status["Seccomp"] == "2");
    CHECK(status["SigBlk"] == "0000000000000000");
    CHECK(status["SigIgn"] == "0000000000000000");
    CHECK(report["core"] == "0");
    CHECK(report["session_leader"] == true);
    CHECK(report["environment"] == Json({"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}));
    Json fds = report["fds"];
    CHECK(fds["0"] == "/dev/null");
    CHECK(fds["1"] == "/dev/null");
    CHECK(fds["2"].get<std::string>().rfind("pipe:", 0) == 0);
    CHECK(fds["3"].get<std::string>().rfind("socket:", 0) == 0);
    CHECK(fds["4"].get<std::string>().rfind("socket:", 0) == 0);
    CHECK(fds["10"] == disk);
    CHECK(fds.size() == 6);

    // The supervisor and the guardian: one without rights, one away from the terminal.
    const pid_t guardian = guardian_pid(program);
    CHECK(status_of(program.pid(), "CapEff") == "0000000000000000");
    CHECK(status_of(program.pid(), "NoNewPrivs") == "1");
    CHECK(status_of(program.pid(), "Uid").rfind("0\t", 0) == std::string::npos);
    CHECK(::getsid(guardian) == guardian);
    if (!start.as_person && is_root()) {
      // KILL, SETGID, SETUID and SETPCAP; with a cgroup to remove, DAC_OVERRIDE.
      const bool cgroup = program.output().find("make the cgroup") != std::string::npos;
      const std::string kept = cgroup ? "00000000000001e2" : "00000000000001e0";
      CHECK(status_of(guardian, "CapEff") == kept);
      CHECK(status_of(guardian, "CapBnd") == kept);
    }
    program.signal(SIGINT);
    CHECK(program.exit_code() == 0);
  }
}

TEST_CASE("confinement: as root QEMU sees a /dev with the nodes of the plan and no others") {
  if (skipped_without_root()) {
    return;
  }
  const std::string mounts = text_of("/proc/self/mountinfo");
  const std::string nodes = host_nodes();
  const Folder folder;
  Json config = probe_config();
  config["run_as"] = 4242;
  Program program(run_of(folder, config));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  const pid_t pid = qemu_pid(program);
  Json expected = {"/dev/full 0666 0:0",
                   "/dev/null 0666 0:0",
                   "/dev/random 0666 0:0",
                   "/dev/urandom 0666 0:0",
                   "/dev/zero 0666 0:0"};
  CHECK(nodes_in(pid) == expected);
  // Mounts of its own: what the guardian sees, and the host, is as it was.
  CHECK(other_namespaces(facts_of(guardian_pid(program)), facts_of(::getpid())) == Json::array());
  CHECK(text_of("/proc/self/mountinfo") == mounts);
  CHECK(host_nodes() == nodes);
  program.signal(SIGINT);
  CHECK(program.exit_code() == 0);
  CHECK(text_of("/proc/self/mountinfo") == mounts);
  CHECK(host_nodes() == nodes);
}

TEST_CASE("confinement: what QEMU sees of the host is what its plan says, and nothing else") {
  for (const bool as_person : {true, false}) {
    if (!as_person && !is_root()) {
      continue;
    }
    const Folder folder;
    Json config = probe_config();
    config["qemu"].erase("extra_args");
    config["kernel"] = folder.write("kernel", "a kernel", 0644);
    const std::string file = folder.write("vm.json", config.dump(), 0644);
    Launch launch = command_of({file});
    Launch plans = command_of({"plan", "--json", file});
    if (as_person && is_root()) {
      REQUIRE(::chown(file.c_str(), kPerson, kPerson) == 0);
      launch.uid = kPerson;
      plans.uid = kPerson;
    }
    Program planning(plans);
    REQUIRE(planning.exit_code() == 0);
    const Json plan = Json::parse(planning.output())["qemu"];
    Program program(launch);
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    const pid_t pid = qemu_pid(program);
    const Json facts = facts_of(pid);

    Json namespaces = {"ipc", "mnt", "net", "uts"};
    if (as_person) {
      namespaces = {"ipc", "mnt", "net", "user", "uts"};
    }
    CHECK(other_namespaces(facts, facts_of(::getpid())) == namespaces);
    CHECK(plan["namespaces"].size() == namespaces.size());

    std::vector<std::string> seen = plan["root"]["shared"];
    seen.insert(seen.end(), {"/vm/10", "/dev"});
    CHECK(plan["root"]["files"] == Json({"/vm/10"}));
    for (const auto& mount : facts["mounts"].items()) {
      const std::string& place = mount.key();
      const std::string options = mount.value();
      INFO(place << " " << options);
      CHECK((place == "/" || std::any_of(seen.begin(), seen.end(), [&](const std::string& path) {
               return is_below(place, path);
             })));
      CHECK((options.starts_with("ro") || place == "/dev"));
      CHECK(options.find("nosuid") != std::string::npos);
    }
    const std::string root = "/proc/" + std::to_string(pid) + "/root";
    CHECK(text_of((root + "/vm/10").c_str()) == "a kernel");
    for (const char* missing : {"/proc", "/home", "/root", "/run", "/tmp", "/etc/passwd"}) {
      INFO(missing);
      CHECK_FALSE(std::filesystem::exists(root + missing));
    }
    CHECK_FALSE(facts["fds"].contains("10"));
    program.signal(SIGINT);
    CHECK(program.exit_code() == 0);
  }
}

TEST_CASE("confinement: without the sandbox a user's QEMU sees all of the host") {
  const Folder folder;
  Json config = probe_config();
  config["sandbox"] = "off";
  Launch launch = run_of(folder, config);
  if (is_root()) {
    launch.uid = kPerson;
  }
  Program program(launch);
  REQUIRE(program.says("] running"));
  CHECK(other_namespaces(facts_of(qemu_pid(program)), facts_of(::getpid())) == Json::array());
  program.signal(SIGINT);
  CHECK(program.exit_code() == 0);
}

TEST_CASE("confinement: a config may not do more than its owner, and the right command is named") {
  if (skipped_without_root()) {
    return;
  }
  struct Refusal {
    std::string name;
    std::vector<std::string> options;
    std::vector<std::string> environment;
    uid_t owner;
    unsigned mode;
    Json change;
    std::string text;
  };
  const std::vector<Refusal> refusals = {
      {"somebody else's config",
       {},
       {"SUDO_UID=777"},
       kPerson,
       0644,
       Json::object(),
       "to run it with that user's rights type: vmlaunch --as 12345"},
      {"a person's config as root alone",
       {},
       {},
       kPerson,
       0644,
       Json::object(),
       "vmlaunch --as 12345"},
      {"a config that others can write", {}, {}, 0, 0666, Json::object(), "chmod go-w"},
      {"extra_args in a person's config",
       {},
       {"SUDO_UID=12345"},
       kPerson,
       0644,
       {{"qemu", {{"binary", PROBE_PROGRAM}, {"extra_args", {"-device"}}}}},
       "let root own it"},
      {"another user in a person's config",
       {},
       {"SUDO_UID=12345"},
       kPerson,
       0644,
       {{"run_as", 4242}},
       "may only name its owner in run_as"},
  };
  for (const Refusal& refusal : refusals) {
    const Folder folder;
    Json config = probe_config({});
    config["qemu"].erase("extra_args");
    config.merge_patch(refusal.change);
    const std::string file = folder.write("vm.json", config.dump(), refusal.mode);
    REQUIRE(::chown(file.c_str(), refusal.owner, refusal.owner) == 0);
    for (const std::string verb : {"run", "check", "plan"}) {
      std::vector<std::string> arguments = refusal.options;
      arguments.insert(arguments.end(), {verb, file});
      Launch launch = command_of(arguments);
      launch.environment = refusal.environment;
      Program program(launch);
      INFO(refusal.name << ", " << verb);
      CHECK(program.exit_code() == 10);
      INFO(program.output());
      CHECK(program.output().find(refusal.text) != std::string::npos);
      CHECK(program.output().find("paused: pid") == std::string::npos);
    }
  }
}

TEST_CASE("confinement: a user without root is told what needs it") {
  const Folder folder;
  Json config = probe_config();
  config["run_as"] = 4242;
  Launch launch = run_of(folder, config);
  if (is_root()) {
    launch.uid = kPerson;
  }
  Program program(launch);
  CHECK(program.exit_code() == 10);
  INFO(program.output());
  CHECK(program.output().find("type: sudo vmlaunch") != std::string::npos);
}
