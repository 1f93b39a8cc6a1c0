#include "sandbox/call_watch.hpp"

#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/packet.hpp"
#include "base/process.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::sandbox {
namespace {

constexpr std::chrono::seconds kLimit{20};

/// What became of a child under a filter: how it ended, and what was told of it.
struct Watched {
  std::optional<base::ExitStatus> status;
  std::vector<std::string> told;
  int fd_at_the_end = 0;
};

std::string describe(const RefusedCall& refused) {
  static const std::vector<std::string> kOutcomes = {"refused", "late", "newer", "ended", "logged"};
  return call_name(refused.call.number) + " " +
         kOutcomes.at(static_cast<std::size_t>(refused.outcome));
}

struct Options {
  Filter::Mode mode = Filter::Mode::enforce;
  bool started = false;    ///< the guest runs already
  bool unwatched = false;  ///< the watch is gone
};

/// Runs `action` in a child under QEMU's policy; what it returns is its exit code.
Watched watch(const std::function<int()>& action, Options options = {}) {
  const Filter filter(own_policy(), {}, options.mode);
  auto [ours, theirs] = base::make_socket_pair(SOCK_SEQPACKET);
  const base::Child child = base::fork_child("a child of the test");
  if (child.pid == 0) {
    ours.reset();
    base::check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
    base::send_packet(theirs.get(), "listener", {filter.install().get()});
    static_cast<void>(base::receive_packet(theirs.get()));
    ::_exit(action());
  }
  theirs.reset();
  std::optional<base::Packet> packet = base::receive_packet(ours.get());
  REQUIRE(packet);
  REQUIRE(packet->fds.size() == 1);
  std::optional<CallWatch> calls(std::in_place,
                                 std::move(packet->fds.front()),
                                 filter,
                                 child.pid,
                                 base::duplicate(child.pidfd.get()));
  if (options.started) {
    calls->end_start(std::chrono::steady_clock::now());
  }
  if (options.unwatched) {
    calls.reset();
  }
  base::send_packet(ours.get(), "go");
  Watched watched;
  const auto deadline = std::chrono::steady_clock::now() + kLimit;
  const auto serve = [&] {
    if (const auto refused = calls->serve()) {
      watched.told.push_back(describe(*refused));
    }
  };
  while (calls && calls->fd() >= 0 && std::chrono::steady_clock::now() < deadline) {
    std::array<pollfd, 2> waited = {{{calls->fd(), POLLIN, 0}, {child.pidfd.get(), POLLIN, 0}}};
    ::poll(waited.data(), waited.size(), 100);
    if (waited[0].revents != 0) {
      serve();
    } else if (waited[1].revents != 0) {
      break;
    }
  }
  watched.status = base::reap_within(child.pidfd.get(), kLimit);
  if (calls && calls->fd() >= 0) {
    serve();
  }
  watched.fd_at_the_end = calls ? calls->fd() : -1;
  return watched;
}

/// The errno of a call that is to fail; 0 if it does not.
int error_of(long result) {
  return result < 0 ? errno : 0;
}

const base::ExitStatus kKilled{0, SIGKILL};

int exec_true() {
  const int program = ::open("/bin/true", O_PATH | O_CLOEXEC);
  char name[] = "true";
  char* arguments[] = {name, nullptr};
  char* environment[] = {nullptr};
  return error_of(::syscall(SYS_execveat, program, "", arguments, environment, AT_EMPTY_PATH));
}

}  // namespace

TEST_CASE("calls: what no rule is about ends the program, and is told", "[sandbox]") {
  const Watched watched = watch([] { return static_cast<int>(::getsid(0)); });
  CHECK(watched.status == kKilled);
  CHECK(watched.told == std::vector<std::string>{"getsid ended"});
  CHECK(watched.fd_at_the_end == -1);
}

TEST_CASE("calls: a signal to another process ends the program, one to itself does not",
          "[sandbox]") {
  CHECK(watch([] { return error_of(::syscall(SYS_tgkill, ::getpid(), ::gettid(), 0)); }).status ==
        base::ExitStatus{});
  const pid_t test = ::getpid();
  const Watched watched = watch([test] { return error_of(::syscall(SYS_tgkill, test, test, 0)); });
  CHECK(watched.status == kKilled);
  CHECK(watched.told == std::vector<std::string>{"tgkill ended"});
}

TEST_CASE("calls: an error is told once for each kind of call, or not at all", "[sandbox]") {
  const Watched watched = watch([] {
    int wrong = 0;
    for (int i = 0; i < 3; ++i) {
      wrong += error_of(::syscall(SYS_ioctl, 0, 0x5412, 0)) == EPERM ? 0 : 1;
      wrong += error_of(::syscall(SYS_ioctl, 0, 0x541c, 0)) == EPERM ? 0 : 1;
      wrong += error_of(::setpriority(PRIO_PROCESS, 0, 1)) == EPERM ? 0 : 1;
      wrong += error_of(::syscall(SYS_io_uring_setup, 1, nullptr)) == ENOSYS ? 0 : 1;
    }
    return wrong;
  });
  CHECK(watched.status == base::ExitStatus{});
  CHECK(watched.told == std::vector<std::string>{"ioctl refused", "ioctl refused"});
}

TEST_CASE("calls: one that is newer than the policy is unknown to the program too", "[sandbox]") {
  const Watched watched = watch([] {
    return error_of(::syscall(9999)) == ENOSYS && error_of(::syscall(-1)) == ENOSYS ? 0 : 1;
  });
  CHECK(watched.status == base::ExitStatus{});
  CHECK(watched.told == std::vector<std::string>{"system call 9999 newer"});
}

TEST_CASE("calls: the kernel itself kills for those that no VM may make", "[sandbox]") {
  const base::ExitStatus by_kernel{0, SIGSYS};
  CHECK(watch([] { return error_of(::ptrace(PTRACE_TRACEME, 0, 0, 0)); }).status == by_kernel);
  // Of another machine's numbering.
  CHECK(watch([] { return error_of(::syscall(0x40000000L + SYS_getpid)); }).status == by_kernel);
  CHECK(watch([] { return error_of(::ptrace(PTRACE_TRACEME, 0, 0, 0)); },
              {Filter::Mode::enforce, false, true})
            .status == by_kernel);
}

TEST_CASE("calls: the start is over when the guest runs", "[sandbox]") {
  const auto make_memory = [] { return error_of(::memfd_create("memory", 0)); };
  const auto make_code = [] {
    const auto* code =
        ::mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return code == MAP_FAILED ? errno : 0;
  };
  CHECK(watch(make_memory).status == base::ExitStatus{});
  CHECK(watch(make_code).status == base::ExitStatus{});
  const Watched memory = watch(make_memory, {Filter::Mode::enforce, true});
  CHECK(memory.status == base::ExitStatus{EPERM, 0});
  CHECK(memory.told == std::vector<std::string>{"memfd_create late"});
  const Watched code = watch(make_code, {Filter::Mode::enforce, true});
  CHECK(code.status == base::ExitStatus{EPERM, 0});
  CHECK(code.told == std::vector<std::string>{"mmap late"});
}

TEST_CASE("calls: a program is started once, by the first thread", "[sandbox]") {
  CHECK(watch(exec_true).status == base::ExitStatus{});
  const Watched twice = watch([] {
    char* nothing[] = {nullptr};
    // One that fails was the one all the same.
    const int first =
        error_of(::syscall(SYS_execveat, AT_FDCWD, "/nonexistent", nothing, nothing, 0));
    return first == ENOENT ? exec_true() : 99;
  });
  CHECK(twice.status == kKilled);
  CHECK(twice.told == std::vector<std::string>{"execveat ended"});
  const Watched another = watch([] {
    std::thread thread([] { ::_exit(exec_true()); });
    thread.join();
    return 0;
  });
  CHECK(another.status == kKilled);
  CHECK(another.told == std::vector<std::string>{"execveat ended"});
}

TEST_CASE("calls: when they are only told all of them are made", "[sandbox]") {
  const Watched watched = watch(
      [] {
        const bool made =
            ::getsid(0) >= 0 && ::getsid(0) >= 0 && ::setpriority(PRIO_PROCESS, 0, 1) == 0;
        const bool traced = ::ptrace(PTRACE_TRACEME, 0, 0, 0) == 0;
        return made && traced ? 0 : 1;
      },
      {Filter::Mode::log});
  CHECK(watched.status == base::ExitStatus{});
  CHECK(watched.told ==
        std::vector<std::string>{"getsid logged", "setpriority logged", "ptrace logged"});
}

TEST_CASE("calls: without a watch all that it would answer fails", "[sandbox]") {
  const auto action = [] { return error_of(::memfd_create("memory", 0)) == ENOSYS ? 0 : 1; };
  CHECK(watch(action, {Filter::Mode::enforce, false, true}).status == base::ExitStatus{});
}

TEST_CASE("calls: a flood is answered, and told of to a limit", "[sandbox]") {
  const Watched watched = watch([] {
    for (unsigned i = 0; i < 1000; ++i) {
      if (error_of(::syscall(SYS_ioctl, 0, 0x10000 + i, 0)) != EPERM) {
        return 1;
      }
    }
    return static_cast<int>(::getsid(0));
  });
  CHECK(watched.status == kKilled);
  CHECK(watched.told.size() == 65);
  CHECK(watched.told.back() == "getsid ended");
}

}  // namespace vmlaunch::sandbox
