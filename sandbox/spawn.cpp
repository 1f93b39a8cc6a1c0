#include "sandbox/spawn.hpp"

#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/packet.hpp"

namespace vmlaunch::sandbox {

namespace {

using base::check;

/// Above every number that a child is given.
constexpr int kParkedFds = 512;

/// A program on a dead network file system may never load.
constexpr std::chrono::seconds kSetupDeadline{10};

/// What the child says: where it failed, or, without an error, with the listener of its filter.
struct Report {
  Stage stage = Stage::word;
  int error = 0;
  std::string text = {};
};

/// Two numbers and a text; both ends are the same program.
void send(int status_fd, const Report& report, const std::vector<int>& fds = {}) {
  const std::array<int, 2> numbers = {static_cast<int>(report.stage), report.error};
  std::string bytes(sizeof numbers, '\0');
  std::memcpy(bytes.data(), numbers.data(), sizeof numbers);
  base::send_packet(status_fd, bytes + report.text, fds);
}

Report read_report(const std::string& bytes) {
  std::array<int, 2> numbers = {static_cast<int>(Stage::session), EIO};
  if (bytes.size() < sizeof numbers) {
    return {Stage::session, EIO};
  }
  std::memcpy(numbers.data(), bytes.data(), sizeof numbers);
  return {static_cast<Stage>(numbers[0]), numbers[1], bytes.substr(sizeof numbers)};
}

/// The child's view of its own making. It has one thread and a copy of the parent's memory, so
/// ordinary C++ serves until exec; it leaves by _exit only.
struct Making {
  const ChildSpec& spec;
  pid_t parent;
  int word_fd;    // readable when the parent lets the child go on
  int status_fd;  // close-on-exec: that it closes tells the parent that exec succeeded
  int program_fd;
  std::optional<Proof> proof = {};
};

/// The parent writes down who we are before we can do anything; its death is no word.
void await_word(Making& making) {
  char word = 0;
  if (check(::read(making.word_fd, &word, 1), "hear the parent's word") != 1) {
    base::throw_errno(ESRCH, "go on: the parent died meanwhile");
  }
}

void enter_session(Making& /*making*/) {
  check(::setsid(), "start a session");
}

void reset_signals(Making& /*making*/) {
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) {
    // SIGKILL, SIGSTOP and the C library's own two cannot be changed, and need not be.
    static_cast<void>(::sigaction(signal, &action, nullptr));
  }
  sigset_t none;
  ::sigemptyset(&none);
  check(::sigprocmask(SIG_SETMASK, &none, nullptr), "clear the signal mask");
}

/// While its descriptors are still there, and the right to mount. There is no /proc afterwards.
void enter_root(Making& making) {
  making.proof.emplace();
  if (making.spec.root) {
    enter_private_root(*making.spec.root, making.spec.credentials);
  } else if (making.spec.dev) {
    enter_dev(*making.spec.dev);
  }
}

int park(int fd) {
  return check(::fcntl(fd, F_DUPFD_CLOEXEC, kParkedFds), "set a descriptor aside");
}

/// First everything moves out of the way, so that no wanted number is overwritten while its
/// descriptor is still needed.
void place_descriptors(Making& making) {
  rlimit files{};
  check(::getrlimit(RLIMIT_NOFILE, &files), "read the limit of open files");
  files.rlim_cur = files.rlim_max;
  check(::setrlimit(RLIMIT_NOFILE, &files), "raise the limit of open files");
  std::vector<PassedFd> wanted = making.spec.fds;
  base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
  for (const int standard : {0, 1, 2}) {
    if (std::none_of(wanted.begin(), wanted.end(), [&](const PassedFd& fd) {
          return fd.theirs == standard;
        })) {
      wanted.push_back({null.get(), standard});
    }
  }
  for (PassedFd& fd : wanted) {
    fd.ours = park(fd.ours);
  }
  null.reset();  // its number may be one that is wanted
  making.status_fd = park(making.status_fd);
  making.program_fd = park(making.program_fd);
  making.proof->set_aside(kParkedFds);
  check(::syscall(SYS_close_range, 0U, static_cast<unsigned>(kParkedFds - 1), 0U),
        "close inherited descriptors");
  check(::syscall(SYS_close_range,
                  static_cast<unsigned>(kParkedFds),
                  ~0U,
                  static_cast<unsigned>(CLOSE_RANGE_CLOEXEC)),
        "mark inherited descriptors");
  for (const PassedFd& fd : wanted) {
    check(::dup2(fd.ours, fd.theirs), "place a descriptor");
  }
}

void set_limits(Making& making) {
  const rlimit none{0, 0};
  check(::setrlimit(RLIMIT_CORE, &none), "forbid core dumps");
  if (making.spec.memlock) {
    const rlimit memory{*making.spec.memlock, *making.spec.memlock};
    check(::setrlimit(RLIMIT_MEMLOCK, &memory), "set the limit of locked memory");
  }
}

void drop_privileges(Making& making) {
  become(making.spec.credentials, *making.proof);
  making.proof.reset();
}

/// After the change of uid, which clears the setting (prctl(2), PR_SET_PDEATHSIG).
void die_with_parent(Making& making) {
  check(::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "set the parent-death signal");
  if (::getppid() != making.parent) {
    base::throw_errno(ESRCH, "live on: the parent died meanwhile");
  }
}

/// The last stage but one: what follows is the one start of a program that its watch permits.
void limit_calls(Making& making) {
  if (making.spec.calls) {
    const base::UniqueFd listener = making.spec.calls->install();
    send(making.status_fd, {Stage::calls, 0}, {listener.get()});
  }
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  all.reserve(texts.size() + 1);
  for (const std::string& text : texts) {
    all.push_back(const_cast<char*>(text.c_str()));
  }
  all.push_back(nullptr);
  return all;
}

/// By descriptor, so that what was checked is what runs, and its folder need not be open to the
/// child's uid.
void exec_program(Making& making) {
  const std::vector<char*> arguments = pointers(making.spec.arguments);
  const std::vector<char*> environment = pointers(making.spec.environment);
  check(
      ::syscall(
          SYS_execveat, making.program_fd, "", arguments.data(), environment.data(), AT_EMPTY_PATH),
      "execute");
}

struct StageEntry {
  Stage stage;
  const char* description;
  void (*run)(Making&);
};

constexpr std::array kStages = {
    StageEntry{Stage::word, "wait for the parent's word", await_word},
    StageEntry{Stage::session, "start a session of its own", enter_session},
    StageEntry{Stage::signals, "reset signals", reset_signals},
    StageEntry{Stage::root, "enter namespaces and a root folder of its own", enter_root},
    StageEntry{Stage::descriptors, "place descriptors, close all others", place_descriptors},
    StageEntry{Stage::limits, "set resource limits", set_limits},
    StageEntry{
        Stage::privileges, "change user, drop capabilities, set no_new_privs", drop_privileges},
    StageEntry{Stage::parent_death, "die with the parent", die_with_parent},
    StageEntry{Stage::calls, "limit system calls", limit_calls},
    StageEntry{Stage::exec, "execute the program", exec_program},
};

[[noreturn]] void run_child(Making making) {
  Report report{Stage::word, 0};
  for (const StageEntry& entry : kStages) {
    report.stage = entry.stage;
    try {
      entry.run(making);
    } catch (const std::system_error& failure) {
      report.error = failure.code().value();
      report.text = failure.what();
    } catch (...) {
      report.error = ENOMEM;
    }
    if (report.error != 0) {
      break;
    }
  }
  try {
    send(making.status_fd, report);
  } catch (const std::system_error&) {
    // The parent is gone.
  }
  ::_exit(127);
}

/// The parent's view: from the child's word on to its exec, or its failure.
class Birth {
 public:
  Birth(int status_fd, const ChildSpec& spec, Spawned& spawned)
      : status_fd_(status_fd), spec_(spec), spawned_(spawned) {}

  /// What went wrong in the child; nothing when it has exec'd.
  std::optional<Report> await() {
    const auto deadline = std::chrono::steady_clock::now() + kSetupDeadline;
    while (!over_) {
      std::array<pollfd, 2> waited = {
          {{status_fd_, POLLIN, 0}, {spawned_.watch ? spawned_.watch->fd() : -1, POLLIN, 0}}};
      if (std::chrono::steady_clock::now() >= deadline || !base::wait_any(waited, deadline)) {
        return Report{Stage::exec, ETIMEDOUT};
      }
      // Each in its turn: a program that never stops asking has been started all the same.
      if (waited[1].revents != 0) {
        answer_call();
      }
      if (waited[0].revents != 0) {
        hear();
      }
    }
    return failure_;
  }

 private:
  void answer_call() {
    if (auto refused = spawned_.watch->serve()) {
      spawned_.refused.push_back(*refused);
    }
  }

  void hear() {
    std::optional<base::Packet> packet = base::receive_packet(status_fd_);
    if (!packet) {
      over_ = true;  // closed by exec
      return;
    }
    const Report report = read_report(packet->bytes);
    if (report.error == 0 && spec_.calls && packet->fds.size() == 1) {
      spawned_.watch.emplace(std::move(packet->fds.front()),
                             *spec_.calls,
                             spawned_.child.pid,
                             base::duplicate(spawned_.child.pidfd.get()));
      return;
    }
    over_ = true;
    failure_ = report.error != 0 ? report : Report{report.stage, EIO};
  }

  int status_fd_;
  const ChildSpec& spec_;
  Spawned& spawned_;
  bool over_ = false;
  std::optional<Report> failure_;
};

void end(const base::Child& child) {
  static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));
  static_cast<void>(base::reap_within(child.pidfd.get(), kSetupDeadline));
}

std::string explain(Stage stage, int error, const std::string& cause) {
  if (stage == Stage::root && !cause.empty()) {
    return cause;
  }
  std::string text = std::string("Cannot ") + describe(stage) + ": " + base::error_text(error);
  if (stage == Stage::exec && error == ENOENT) {
    text += " (a script cannot be run here, nor a program whose loader is missing)";
  }
  if (stage == Stage::calls) {
    text +=
        error == EBUSY ? " (a container that watches them itself leaves no room for a watch)" : "";
    text += "; to do without, type: vmlaunch run --sandbox=off FILE";
  }
  return text;
}

}  // namespace

const char* describe(Stage stage) {
  const auto* entry = std::find_if(
      kStages.begin(), kStages.end(), [&](const StageEntry& e) { return e.stage == stage; });
  return entry != kStages.end() ? entry->description : "set up the child";
}

ChildSetupError::ChildSetupError(Stage stage, int error, const std::string& text)
    : std::runtime_error(explain(stage, error, text)), stage_(stage), error_(error) {}

Spawned spawn(const ChildSpec& spec, const std::function<void(pid_t)>& born) {
  auto [status, childs_status] = base::make_socket_pair(SOCK_SEQPACKET);
  base::Pipe word = base::make_pipe();
  const pid_t parent = ::getpid();
  Spawned spawned;
  spawned.child = base::fork_child("QEMU", spec.cgroup);
  if (spawned.child.pid == 0) {
    word.write_end.reset();
    status.reset();
    run_child({spec, parent, word.read_end.get(), childs_status.get(), spec.program});
  }
  childs_status.reset();
  std::optional<Report> failure;
  try {
    if (born) {
      born(spawned.child.pid);
    }
    base::write_all(word.write_end.get(), "g", "the child's word");
    failure = Birth(status.get(), spec, spawned).await();
  } catch (...) {
    end(spawned.child);
    throw;
  }
  if (failure) {
    end(spawned.child);
    throw ChildSetupError(failure->stage, failure->error, failure->text);
  }
  return spawned;
}

}  // namespace vmlaunch::sandbox
