#include "sandbox/spawn.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::sandbox {
namespace {

using tests::in_child;
using tests::kUser;

constexpr std::chrono::seconds kLimit{20};
constexpr std::size_t kMostOutput = std::size_t{1} << 20U;

/// Somebody else if that is possible, else who we are.
Credentials somebody() {
  if (::geteuid() == 0) {
    return {kUser, kUser, {}};
  }
  return {::getuid(), ::getgid(), {}};
}

base::UniqueFd program_at(const std::string& path) {
  return base::open_file(path, O_PATH);
}

/// Runs a program to its end and returns what it wrote to its standard output.
std::string output_of(ChildSpec spec) {
  base::Pipe output = base::make_pipe();
  spec.fds.push_back({output.write_end.get(), STDOUT_FILENO});
  const base::Child child = spawn(spec).child;
  output.write_end.reset();
  const std::string text = base::read_all(output.read_end.get(), kMostOutput, "the output");
  const auto status = base::reap_within(child.pidfd.get(), kLimit);
  return status == base::ExitStatus{} ? text : text + (status ? to_string(*status) : "lives on");
}

std::string output_of(const std::vector<std::string>& command,
                      const std::vector<PassedFd>& fds = {},
                      const std::vector<std::string>& environment = {},
                      const Credentials& credentials = somebody()) {
  const base::UniqueFd program = program_at(command.at(0));
  return output_of(ChildSpec{program.get(), command, environment, fds, credentials});
}

std::string shell(const std::string& script, const std::vector<PassedFd>& fds = {}) {
  return output_of({"/bin/sh", "-c", script}, fds);
}

/// A shell script that names every open descriptor of its shell.
const std::string kListFds =
    "n=0; while [ $n -lt 1100 ]; do [ -e /proc/self/fd/$n ] && printf '%s ' $n; n=$((n+1)); done";

std::string status_of_child(const std::vector<std::string>& lines,
                            const Credentials& credentials = somebody()) {
  return tests::status_lines(output_of({"/bin/cat", "/proc/self/status"}, {}, {}, credentials),
                             lines);
}

std::vector<std::string> open_fds() {
  std::vector<std::string> open;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    open.push_back(entry.path().filename());
  }
  std::sort(open.begin(), open.end());
  return open;
}

/// "stage: text (errno)", or "started".
std::string setup_error(const ChildSpec& spec) {
  try {
    const base::Child child = spawn(spec).child;
    static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));
    static_cast<void>(base::reap_within(child.pidfd.get(), kLimit));
  } catch (const ChildSetupError& error) {
    return std::to_string(static_cast<int>(error.stage())) + ": " + error.what() + " (" +
           std::to_string(error.error()) + ")";
  }
  return "started";
}

std::string setup_error_of(const std::string& path, const Credentials& credentials = somebody()) {
  const base::UniqueFd program = program_at(path);
  return setup_error({program.get(), {path}, {}, {}, credentials});
}

// ---- what a child is

TEST_CASE("spawn: the environment is what is given and nothing else", "[sandbox]") {
  CHECK(output_of({"/usr/bin/env"}, {}, {}) == "");
  CHECK(output_of({"/usr/bin/env"}, {}, {"A=1", "B=x y\n=", "PATH="}) == "A=1\nB=x y\n=\nPATH=\n");
}

TEST_CASE("spawn: the arguments arrive word by word", "[sandbox]") {
  CHECK(output_of(
            {"/bin/sh", "-c", "printf '[%s]' \"$0\" \"$@\"", "zero", "", "a b", "c\n'\"", "*"}) ==
        "[zero][][a b][c\n'\"][*]");
}

TEST_CASE("spawn: only listed descriptors are open", "[sandbox]") {
  CHECK(in_child([] {
          // Inheritable ones, low and high, must not get through.
          const base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
          for (const int fd : {7, 100, 511, 512, 513, 600, 1000}) {
            base::check(::dup2(null.get(), fd), "make a descriptor");
          }
          return shell(kListFds) + "| " + shell(kListFds, {{7, 3}, {7, 255}, {600, 7}});
        }) == "0 1 2 | 0 1 2 3 7 255 ");
}

TEST_CASE("spawn: standard streams that are not listed are /dev/null", "[sandbox]") {
  CHECK(in_child([] {
          const base::UniqueFd file = base::open_file("/", O_RDONLY);
          for (const int fd : {0, 2}) {
            base::check(::dup2(file.get(), fd), "replace a standard stream");
          }
          return shell("readlink /proc/$$/fd/0 /proc/$$/fd/2");
        }) == "/dev/null\n/dev/null\n");
}

TEST_CASE("spawn: standard streams may be closed in the parent", "[sandbox]") {
  CHECK(
      in_child([] {
        const base::UniqueFd program = program_at("/bin/sh");
        const ChildSpec spec{program.get(), {"sh", "-c", kListFds + "; echo"}, {}, {}, somebody()};
        for (const int fd : {0, 1, 2}) {
          ::close(fd);
        }
        return output_of(spec);
      }) == "0 1 2 \n");
}

/// Makes the descriptors `ours`, each an open file with its own number in it, passes them as
/// `theirs` and returns what the child reads from each.
std::string passed(const std::vector<int>& ours, const std::vector<int>& theirs) {
  const tests::Folder folder;
  std::vector<PassedFd> fds;
  std::string script = "exec cat";
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const std::string path = folder.write(std::to_string(i), std::to_string(ours[i]) + " ");
    const base::UniqueFd file = base::open_file(path, O_RDONLY);
    base::check(::dup2(file.get(), ours[i]), "place a descriptor");
    fds.push_back({ours[i], theirs[i]});
    script += " /proc/self/fd/" + std::to_string(theirs[i]);
  }
  return shell(script, fds);
}

TEST_CASE("spawn: each descriptor gets its number, though others are in its way", "[sandbox]") {
  const std::vector<int> ours = {100, 101, 102, 103};
  std::vector<int> theirs = ours;
  std::sort(theirs.begin(), theirs.end());
  do {
    INFO(theirs[0] << " " << theirs[1] << " " << theirs[2] << " " << theirs[3]);
    CHECK(in_child([&] { return passed(ours, theirs); }) == "100 101 102 103 ");
  } while (std::next_permutation(theirs.begin(), theirs.end()));
}

TEST_CASE("spawn: a descriptor may be passed under several numbers, also its own", "[sandbox]") {
  CHECK(in_child([] {
          const base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
          base::check(::dup2(null.get(), 50), "place a descriptor");
          return shell(kListFds, {{50, 50}, {50, 20}, {50, 0}});
        }) == "0 1 2 20 50 ");
}

TEST_CASE("spawn: any number that a plan can have may be asked for", "[sandbox]") {
  // Among them those that the child itself uses on its way.
  CHECK(in_child([] {
          const base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
          std::vector<PassedFd> fds;
          std::string expected = "0 1 2 ";
          for (int number = 3; number < 256; ++number) {
            fds.push_back({null.get(), number});
            expected += std::to_string(number) + " ";
          }
          const std::string open = shell(kListFds, fds);
          return open == expected ? std::string("all") : open;
        }) == "all");
}

TEST_CASE("spawn: one number alone may be any, too", "[sandbox]") {
  for (int number = 3; number < 20; ++number) {
    INFO(number);
    CHECK(in_child([&] {
            const base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
            return shell(kListFds, {{null.get(), number}});
          }) == "0 1 2 " + std::to_string(number) + " ");
  }
}

TEST_CASE("spawn: the child ignores, blocks and waits for no signal", "[sandbox]") {
  CHECK(in_child([] {
          struct sigaction ignore {};
          ignore.sa_handler = SIG_IGN;
          sigset_t all;
          ::sigfillset(&all);
          for (int signal = 1; signal < NSIG; ++signal) {
            if (signal != SIGCHLD) {  // ignored, it would take the parent's news of the child away
              ::sigaction(signal, &ignore, nullptr);
            }
          }
          base::check(::sigprocmask(SIG_SETMASK, &all, nullptr), "block all signals");
          return status_of_child({"SigPnd", "SigBlk", "SigIgn", "SigCgt"});
        }) ==
        "SigPnd: 0000000000000000; SigBlk: 0000000000000000; SigIgn: 0000000000000000; "
        "SigCgt: 0000000000000000");
}

TEST_CASE("spawn: the child leads a session of its own", "[sandbox]") {
  CHECK(shell("read pid name state parent group session rest < /proc/self/stat; "
              "[ $pid = $$ ] && [ $group = $$ ] && [ $session = $$ ] && printf own") == "own");
}

TEST_CASE("spawn: the child makes no core dump", "[sandbox]") {
  CHECK(shell("ulimit -S -c; ulimit -H -c") == "0\n0\n");
}

TEST_CASE("spawn: root's child is another user without any power", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const std::vector<std::string> lines = {
      "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"};
  const std::string none = "0000000000000000";
  const std::string powerless = "CapInh: " + none + "; CapPrm: " + none + "; CapEff: " + none +
                                "; CapBnd: " + none + "; CapAmb: " + none + "; NoNewPrivs: 1";
  CHECK(status_of_child(lines, {kUser, kUser, {}}) ==
        "Uid: 12345 12345 12345 12345; Gid: 12345 12345 12345 12345; Groups:; " + powerless);
  CHECK(status_of_child(lines, {kUser, 7, {8, 106}}) ==
        "Uid: 12345 12345 12345 12345; Gid: 7 7 7 7; Groups: 8 106; " + powerless);
}

TEST_CASE("spawn: a user's child is the same user without any power to gain", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(tests::as_user(kUser,
                       [] {
                         return status_of_child({"Uid", "Gid", "CapPrm", "CapEff", "NoNewPrivs"},
                                                {kUser, kUser, {}});
                       }) ==
        "Uid: 12345 12345 12345 12345; Gid: 12345 12345 12345 12345; CapPrm: "
        "0000000000000000; CapEff: 0000000000000000; NoNewPrivs: 1");
}

TEST_CASE("spawn: the program may lie where the child's user could not find it", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  std::filesystem::copy_file("/bin/true", folder.file("true"));
  base::check(::chmod(folder.path().c_str(), 0700), "close the folder");
  CHECK(output_of({folder.file("true")}) == "");
}

TEST_CASE("spawn: what was opened is what runs, whatever its name means now", "[sandbox]") {
  const tests::Folder folder;
  std::filesystem::copy_file("/bin/echo", folder.file("program"));
  const base::UniqueFd program = program_at(folder.file("program"));
  std::filesystem::remove(folder.file("program"));
  std::filesystem::copy_file("/bin/false", folder.file("program"));
  CHECK(output_of(ChildSpec{program.get(), {"echo", "the first"}, {}, {}, somebody()}) ==
        "the first\n");
}

// ---- failures

TEST_CASE("spawn: a program that cannot be executed is told with its stage and cause",
          "[sandbox]") {
  const tests::Folder folder;
  const std::string exec = "9: Cannot execute the program: ";
  const std::string no_entry =
      "No such file or directory (a script cannot be run here, nor a program whose loader is "
      "missing) (2)";
  std::string broken = base::read_file("/bin/true", std::size_t{1} << 24U);
  const std::size_t loader = broken.find("/ld-linux");
  REQUIRE(loader != std::string::npos);
  broken[loader + 1] = 'X';
  CHECK(setup_error_of(folder.write("script", "#!/bin/sh\n", 0755)) == exec + no_entry);
  CHECK(setup_error_of(folder.write("loader", broken, 0755)) == exec + no_entry);
  CHECK(setup_error_of(folder.write("data", "data", 0755)) == exec + "Exec format error (8)");
  CHECK(setup_error_of(folder.write("empty", "", 0755)) == exec + "Exec format error (8)");
  CHECK(setup_error_of(folder.write("plain", "", 0644)) == exec + "Permission denied (13)");
  CHECK(setup_error_of(folder.path()) == exec + "Permission denied (13)");
  CHECK(setup_error({-1, {"x"}, {}, {}, somebody()}) ==
        "4: Cannot place descriptors, close all others: Bad file descriptor (9)");
}

TEST_CASE("spawn: a program that only root may execute is refused to another user", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  std::filesystem::copy_file("/bin/true", folder.file("true"));
  base::check(::chmod(folder.file("true").c_str(), 0700), "close the program");
  CHECK(setup_error_of(folder.file("true")) ==
        "9: Cannot execute the program: Permission denied (13)");
}

TEST_CASE("spawn: a descriptor that is not open is told", "[sandbox]") {
  const base::UniqueFd program = program_at("/bin/true");
  CHECK(setup_error({program.get(), {"true"}, {}, {{999, 3}}, somebody()}) ==
        "4: Cannot place descriptors, close all others: Bad file descriptor (9)");
}

TEST_CASE("spawn: nobody is started as root, and nobody changes users without it", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const std::string refused =
      "6: Cannot change user, drop capabilities, set no_new_privs: Operation not permitted (1)";
  CHECK(setup_error_of("/bin/true", {0, 0, {}}) == refused);
  for (const uid_t uid : {uid_t{0}, tests::kOther}) {
    INFO(uid);
    CHECK(tests::as_user(kUser, [&] {
            return setup_error_of("/bin/true", {uid, uid, {}});
          }) == refused);
  }
}

TEST_CASE("spawn: every stage has a description of its own", "[sandbox]") {
  std::vector<std::string> descriptions;
  for (const Stage stage : {Stage::word,
                            Stage::session,
                            Stage::signals,
                            Stage::descriptors,
                            Stage::limits,
                            Stage::privileges,
                            Stage::parent_death,
                            Stage::calls,
                            Stage::exec}) {
    descriptions.emplace_back(describe(stage));
  }
  CHECK(descriptions == std::vector<std::string>{"wait for the parent's word",
                                                 "start a session of its own",
                                                 "reset signals",
                                                 "place descriptors, close all others",
                                                 "set resource limits",
                                                 "change user, drop capabilities, set no_new_privs",
                                                 "die with the parent",
                                                 "limit system calls",
                                                 "execute the program"});
}

TEST_CASE("spawn: the parent keeps its descriptors and gains the pidfd alone", "[sandbox]") {
  const base::UniqueFd program = program_at("/bin/true");
  const base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
  const std::vector<std::string> before = open_fds();
  {
    const base::Child child =
        spawn({program.get(), {"true"}, {}, {{null.get(), 5}, {null.get(), 0}}, somebody()}).child;
    CHECK(open_fds().size() == before.size() + 1);
    CHECK(::fcntl(child.pidfd.get(), F_GETFD) == FD_CLOEXEC);
    CHECK(base::reap_within(child.pidfd.get(), kLimit) == base::ExitStatus{});
  }
  CHECK(open_fds() == before);
}

TEST_CASE("spawn: a failure leaves neither descriptor nor process", "[sandbox]") {
  CHECK(in_child([] {
          const tests::Folder folder;
          const std::string script = folder.write("script", "#!/bin/sh\n", 0755);
          const std::vector<std::string> before = open_fds();
          static_cast<void>(setup_error_of(script));
          static_cast<void>(setup_error({-1, {"x"}, {}, {}, somebody()}));
          siginfo_t info{};
          const bool childless =
              ::waitid(P_ALL, 0, &info, WEXITED | WNOHANG) < 0 && errno == ECHILD;
          return std::string(open_fds() == before ? "same descriptors" : "other descriptors") +
                 (childless ? ", no child" : ", a child");
        }) == "same descriptors, no child");
}

// ---- parent death

/// Starts a parent that prepares itself, starts a child that would live for ever, and is killed.
bool child_dies_with_parent(const Credentials& credentials, const Capabilities* kept) {
  base::Pipe told = base::make_pipe();
  const base::Pipe never = base::make_pipe();
  const base::Child parent = base::fork_child("a parent");
  if (parent.pid == 0) {
    if (kept != nullptr) {
      keep_only(*kept);
    }
    const base::UniqueFd program = program_at("/bin/cat");
    const base::Child child =
        spawn({program.get(), {"cat"}, {}, {{never.read_end.get(), 0}}, credentials}).child;
    base::write_all(told.write_end.get(), std::to_string(child.pid), "the pid");
    told.write_end.reset();
    static_cast<void>(base::reap_within(child.pidfd.get(), kLimit));
    ::_exit(0);
  }
  told.write_end.reset();
  const std::string pid = base::read_all(told.read_end.get(), 100, "the pid");
  REQUIRE_FALSE(pid.empty());
  const base::UniqueFd child(static_cast<int>(
      base::check(::syscall(SYS_pidfd_open, std::stoi(pid), 0), "open the child")));
  CHECK_FALSE(base::wait_readable(child.get(), std::chrono::steady_clock::now()));
  static_cast<void>(base::send_signal(parent.pidfd.get(), SIGKILL));
  CHECK(base::reap_within(parent.pidfd.get(), kLimit) == base::ExitStatus{0, SIGKILL});
  return base::wait_readable(child.get(), std::chrono::steady_clock::now() + kLimit);
}

TEST_CASE("spawn: the child dies with a parent that is killed", "[sandbox]") {
  CHECK(child_dies_with_parent(somebody(), nullptr));
}

TEST_CASE("spawn: the child of another user dies with a parent that kept CAP_KILL", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const Capabilities kept = {CAP_KILL, CAP_SETUID, CAP_SETGID, CAP_SETPCAP};
  CHECK(child_dies_with_parent({kUser, kUser, {}}, &kept));
}

}  // namespace
}  // namespace vmlaunch::sandbox
