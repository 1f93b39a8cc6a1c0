#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "base/unique_fd.hpp"
#include "sandbox/filter.hpp"
#include "sandbox/policy.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/live_filters.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

/// Above every number that there is.
constexpr int kNumbers = 600;

constexpr std::array<std::uint64_t, 3> kArguments = {0, ~std::uint64_t{0}, 0x5555'5555'5555'5555};

bool always_allowed(const std::vector<LiveFilter>& filters, int number) {
  return std::all_of(kArguments.begin(), kArguments.end(), [&](std::uint64_t argument) {
    return run_filters(filters, call_of(number, argument)) == SECCOMP_RET_ALLOW;
  });
}

bool ever_allowed(const std::vector<LiveFilter>& filters, int number) {
  return std::any_of(kArguments.begin(), kArguments.end(), [&](std::uint64_t argument) {
    return run_filters(filters, call_of(number, argument)) == SECCOMP_RET_ALLOW;
  });
}

std::set<std::string> calls_of(const std::vector<LiveFilter>& filters,
                               bool (*allowed)(const std::vector<LiveFilter>&, int)) {
  std::set<std::string> names;
  for (int number = 0; number < kNumbers; ++number) {
    if (allowed(filters, number)) {
      names.insert(sandbox::call_name(number));
    }
  }
  return names;
}

/// What a guest that took over QEMU would look for.
const std::set<std::string> kNever = {"ptrace",
                                      "bpf",
                                      "perf_event_open",
                                      "process_vm_readv",
                                      "process_vm_writev",
                                      "pidfd_getfd",
                                      "pidfd_open",
                                      "kcmp",
                                      "io_uring_setup",
                                      "io_uring_enter",
                                      "io_uring_register",
                                      "mount",
                                      "umount2",
                                      "move_mount",
                                      "open_tree",
                                      "fsopen",
                                      "fsconfig",
                                      "fsmount",
                                      "fspick",
                                      "mount_setattr",
                                      "pivot_root",
                                      "chroot",
                                      "kexec_load",
                                      "kexec_file_load",
                                      "init_module",
                                      "finit_module",
                                      "delete_module",
                                      "keyctl",
                                      "add_key",
                                      "request_key",
                                      "setns",
                                      "unshare",
                                      "setuid",
                                      "setgid",
                                      "setreuid",
                                      "setregid",
                                      "setresuid",
                                      "setresgid",
                                      "setfsuid",
                                      "setfsgid",
                                      "setgroups",
                                      "capset",
                                      "userfaultfd",
                                      "open_by_handle_at",
                                      "name_to_handle_at",
                                      "execve",
                                      "execveat",
                                      "fork",
                                      "vfork",
                                      "kill",
                                      "tkill",
                                      "pidfd_send_signal",
                                      "rt_sigqueueinfo",
                                      "rt_tgsigqueueinfo",
                                      "mknod",
                                      "mknodat",
                                      "chmod",
                                      "fchmod",
                                      "fchmodat",
                                      "chown",
                                      "fchown",
                                      "lchown",
                                      "fchownat",
                                      "link",
                                      "linkat",
                                      "symlink",
                                      "symlinkat",
                                      "rename",
                                      "renameat",
                                      "renameat2",
                                      "mkdir",
                                      "mkdirat",
                                      "iopl",
                                      "ioperm",
                                      "reboot",
                                      "swapon",
                                      "swapoff",
                                      "syslog",
                                      "sched_setscheduler",
                                      "sched_setaffinity",
                                      "sched_setattr",
                                      "setrlimit",
                                      "personality"};

/// A viewer's connection to a VNC server of this machine (RFC 6143).
class Viewer {
 public:
  explicit Viewer(std::uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    base::check(::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address),
                "connect to the VNC server");
  }

  std::string read(std::size_t count) {
    std::string bytes;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (bytes.size() < count && base::wait_readable(socket_.get(), deadline)) {
      std::string piece(count - bytes.size(), '\0');
      const ssize_t got = ::read(socket_.get(), piece.data(), piece.size());
      if (got <= 0) {
        break;
      }
      bytes += piece.substr(0, static_cast<std::size_t>(got));
    }
    return bytes;
  }

  void write(const std::string& bytes) { base::write_all(socket_.get(), bytes, "the VNC server"); }

 private:
  base::UniqueFd socket_;
};

Program& require_running(Program& program) {
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  return program;
}

std::string bytes_of(const LiveFilter& filter) {
  std::string bytes(filter.size() * sizeof(sock_filter), '\0');
  std::memcpy(bytes.data(), filter.data(), bytes.size());
  return bytes;
}

/// Of the folder's vm.json.
Json plan_of(const Folder& folder) {
  Program program(command_of({"plan", "--json", folder.file("vm.json")}));
  CHECK(program.exit_code() == 0);
  return Json::parse(program.output());
}

}  // namespace

TEST_CASE("calls: the filter of a living QEMU allows few calls, and none that lead out of it") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  Program program(run_of(folder, idle_config()));
  require_running(program);
  const std::vector<LiveFilter> filters = live_filters(qemu_pid(program));
  REQUIRE(filters.size() == 2);  // the policy's, and beneath it QEMU's own
  // It is the one that the plan tells of, with QEMU's own number in it.
  const Json plan = plan_of(folder)["qemu"];
  const sandbox::Filter planned(
      sandbox::own_policy(), plan["system_calls"], sandbox::Filter::Mode::enforce);
  CHECK(bytes_of(filters[0]) == planned.program(qemu_pid(program)));
  CHECK(plan["filter"] ==
        Json({{"instructions", filters[0].size()},
              {"fingerprint", base::hex(base::fingerprint(planned.program(0)), 16)}}));
  const std::set<std::string> always = calls_of(filters, always_allowed);
  const std::set<std::string> ever = calls_of(filters, ever_allowed);
  CHECK(always.contains("read"));
  CHECK(always.size() <= 150);
  for (const std::string& name : kNever) {
    INFO(name);
    CHECK_FALSE(ever.contains(name));
  }
  // Another machine's numbering.
  for (const std::uint32_t machine : {0x40000003U, 0xc00000b7U}) {
    seccomp_data call = call_of(0, 0);
    call.arch = machine;
    CHECK(run_filters(filters, call) == SECCOMP_RET_KILL_PROCESS);
  }
  CHECK(run_filters(filters, call_of(0x40000000, 0)) == SECCOMP_RET_KILL_PROCESS);
  program.signal(SIGINT);
  CHECK(program.exit_code() == 18);
}

TEST_CASE("calls: what QEMU tries is refused or ends it, and is said") {
  struct Case {
    std::string word;
    int code;
    std::string text;
    std::string why = {};
  };
  const std::string refused = "which no device of this VM needs: it was refused";
  const std::string late = "which it may do only before the guest runs: it was refused";
  const std::string newer = "which is newer than this vmlaunch: QEMU was told that there is none";
  const std::string ended = ", which no device of this VM needs, and was ended";
  const std::vector<Case> cases = {
      {"try-execve", 16, "execve"},
      {"try-execveat", 16, "execveat"},
      {"try-execveat-of-thread", 16, "execveat"},
      {"try-fork", 16, "fork"},
      {"try-vfork", 16, "clone"},
      {"try-signal", 16, "tgkill"},
      {"try-ptrace", 16, "it made a system call that no VM may make"},
      {"try-listen", 16, "listen"},
      {"try-terminal", 0, "ioctl(0x0, 0x5412", refused},
      {"try-memfd", 0, "memfd_create", late},
      {"try-code", 0, "mmap(0x0, 0x1000, 0x5", late},
      {"try-unknown", 0, "system call 9999", newer},
  };
  for (const Case& attempt : cases) {
    const Folder folder;
    Program program(run_of(folder, probe_config({attempt.word, "shutdown"})));
    INFO(attempt.word);
    CHECK(program.exit_code() == attempt.code);
    INFO(program.output());
    CHECK(program.output().find(attempt.text) != std::string::npos);
    CHECK(program.output().find("host restored") != std::string::npos);
    if (attempt.code == 0) {
      CHECK(program.output().find(attempt.why) != std::string::npos);
    } else if (attempt.word != "try-ptrace") {
      CHECK(program.output().find("QEMU tried " + attempt.text) != std::string::npos);
      CHECK(program.output().find(ended) != std::string::npos);
    }
  }
}

TEST_CASE("calls: what libraries only try is refused without a word") {
  const Folder folder;
  Program program(run_of(
      folder,
      probe_config(
          {"try-abstract-socket", "try-io-uring", "try-priority", "try-limit", "shutdown"})));
  CHECK(program.exit_code() == 0);
  INFO(program.output());
  CHECK(program.output().find("probe: try-abstract-socket: 1\n") != std::string::npos);
  CHECK(program.output().find("probe: try-io-uring: 38\n") != std::string::npos);
  CHECK(program.output().find("probe: try-priority: 1\n") != std::string::npos);
  CHECK(program.output().find("probe: try-limit: 1\n") != std::string::npos);
  CHECK(program.output().find("QEMU tried") == std::string::npos);
}

TEST_CASE("calls: a viewer is shown the guest's screen while it runs") {
  const Folder folder;
  Json config = idle_config();
  config["video"] = "vga";
  config["display"] = {{"vnc", "127.0.0.1:5974"}};
  Program program(run_of(folder, config));
  require_running(program);
  Viewer viewer(5974);
  CHECK(viewer.read(12) == "RFB 003.008\n");
  viewer.write("RFB 003.008\n");
  CHECK(viewer.read(2) == "\x01\x01");  // one way to log in: none
  viewer.write("\x01");
  CHECK(viewer.read(4) == std::string(4, '\0'));
  viewer.write("\x01");
  const std::string screen = viewer.read(24);
  REQUIRE(screen.size() == 24);
  const std::string size = screen.substr(0, 4);
  CHECK(viewer.read(static_cast<unsigned char>(screen[23])).size() > 0);
  viewer.write(std::string("\x03\0\0\0\0\0", 6) + size);  // all of the screen
  CHECK(viewer.read(1) == std::string(1, '\0'));          // an update of it
  program.signal(SIGINT);
  CHECK(program.exit_code() == 18);
  CHECK(program.output().find("QEMU tried") == std::string::npos);
}

TEST_CASE("calls: a QEMU that keeps asking can be stopped all the same") {
  const Folder folder;
  const Launch launch =
      run_of(folder, probe_config({"flood-calls", "ignore-powerdown", "ignore-quit"}));
  for (const int signal : {SIGINT, SIGKILL}) {
    Program program(launch);
    require_running(program);
    const pid_t qemu = qemu_pid(program);
    const pid_t guardian = guardian_pid(program);
    CHECK(program.says("memfd_create"));
    program.signal(signal);
    CHECK(program.exit_code() == (signal == SIGINT ? 18 : 137));
    CHECK(eventually([&] { return !lives(qemu) && !lives(guardian); }, Seconds(30)));
  }
}

TEST_CASE("calls: the config or the command line can ask for less, which is warned of") {
  const std::vector<std::string> words = {"try-terminal", "try-memfd", "shutdown"};
  struct Way {
    Json key;
    std::vector<std::string> options;
    std::string warning;
    bool told;
  };
  const std::vector<Way> ways = {
      {"log", {}, "\"sandbox\": \"log\"", true},
      {nullptr, {"--sandbox=log"}, "\"sandbox\": \"log\"", true},
      {"on", {"--sandbox", "log"}, "\"sandbox\": \"log\"", true},
      {"off", {}, "\"sandbox\": \"off\"", false},
      {"log", {"--sandbox=off"}, "\"sandbox\": \"off\"", false},
  };
  for (const Way& way : ways) {
    const Folder folder;
    Json config = probe_config(words);
    if (!way.key.is_null()) {
      config["sandbox"] = way.key;
    }
    std::vector<std::string> arguments = way.options;
    arguments.push_back(folder.write("vm.json", config.dump()));
    Program program(command_of(arguments));
    CHECK(program.exit_code() == 0);
    INFO(program.output());
    CHECK(program.output().find(way.warning) != std::string::npos);
    CHECK(program.output().find("probe: try-memfd: 0\n") != std::string::npos);
    CHECK((program.output().find("which \"sandbox\": \"on\" would not") != std::string::npos) ==
          way.told);
  }
}

TEST_CASE("calls: an unknown word for --sandbox is refused, and names the known ones") {
  const Folder folder;
  const std::string file = folder.write("vm.json", probe_config().dump());
  for (const std::string verb : {"run", "plan", "check"}) {
    Program program(command_of({verb, "--sandbox=of", file}));
    CHECK(program.exit_code() == 2);
    INFO(program.output());
    CHECK(program.output().find("--sandbox") != std::string::npos);
    CHECK(program.output().find("off") != std::string::npos);
  }
}
