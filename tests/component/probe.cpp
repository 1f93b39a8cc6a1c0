// Takes QEMU's place and speaks as much QMP on descriptor 3 as a run needs. Words among its
// arguments choose how it misbehaves.

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

namespace {

using Json = nlohmann::json;

constexpr int kQmp = 3;

std::vector<std::string> words;

bool told(const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// The number after "word=".
int number(const std::string& word, int otherwise) {
  for (const std::string& candidate : words) {
    if (candidate.rfind(word + "=", 0) == 0) {
      return std::atoi(candidate.c_str() + word.size() + 1);
    }
  }
  return otherwise;
}

[[noreturn]] void wait_for_ever() {
  for (;;) {
    ::poll(nullptr, 0, -1);
  }
}

/// Ways out of QEMU, by the word that asks for them. Each says what it came to.
struct Attempt {
  const char* word;
  long (*make)();
};

long execute(long number) {
  static char name[] = "true";
  static char* arguments[] = {name, nullptr};
  static char* environment[] = {nullptr};
  return number == SYS_execve ? ::syscall(number, "/bin/true", arguments, environment)
                              : ::syscall(number, AT_FDCWD, "/bin/true", arguments, environment, 0);
}

long in_another_thread(long (*make)()) {
  long result = -1;
  std::thread thread([&] { result = make(); });
  thread.join();
  return result;
}

const std::array kAttempts = {
    Attempt{"try-execve", [] { return execute(SYS_execve); }},
    Attempt{"try-execveat", [] { return execute(SYS_execveat); }},
    Attempt{"try-execveat-of-thread",
            [] { return in_another_thread([] { return execute(SYS_execveat); }); }},
    Attempt{"try-fork", [] { return ::syscall(SYS_fork); }},
    Attempt{"try-vfork", [] { return ::syscall(SYS_clone, 0x4111, 0, 0, 0, 0); }},
    Attempt{"try-ptrace", [] { return ::syscall(SYS_ptrace, 16, ::getppid(), 0, 0); }},
    Attempt{"try-signal", [] { return ::syscall(SYS_tgkill, 1, 1, 0); }},
    Attempt{"try-terminal", [] { return ::syscall(SYS_ioctl, 0, 0x5412, "x"); }},
    Attempt{"try-listen", [] { return ::syscall(SYS_listen, kQmp, 1); }},
    Attempt{"try-memfd", [] { return ::syscall(SYS_memfd_create, "x", 0); }},
    Attempt{"try-code",
            [] {
              return ::syscall(
                  SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            }},
    Attempt{"try-abstract-socket", [] { return ::syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0); }},
    Attempt{"try-io-uring",
            [] {
              std::array<char, 256> parameters{};
              return ::syscall(SYS_io_uring_setup, 1, parameters.data());
            }},
    Attempt{"try-priority", [] { return ::syscall(SYS_setpriority, 0, 0, -20); }},
    Attempt{"try-limit",
            [] {
              const rlimit limit{1, 1};
              return ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &limit, nullptr);
            }},
    Attempt{"try-unknown", [] { return ::syscall(9999); }},
};

/// Keeps whoever answers for the calls busy.
void flood_calls() {
  for (int i = 0; i < 4; ++i) {
    std::thread([] {
      for (;;) {
        ::syscall(SYS_memfd_create, "x", 0);
      }
    }).detach();
  }
}

void attempt() {
  if (told("flood-calls")) {
    flood_calls();
  }
  for (const Attempt& attempt : kAttempts) {
    if (told(attempt.word)) {
      const long result = attempt.make();
      std::fprintf(stderr, "probe: %s: %d\n", attempt.word, result < 0 ? errno : 0);
    }
  }
}

void send_text(const std::string& text) {
  if (::write(kQmp, text.data(), text.size()) < 0) {
    std::exit(3);
  }
}

void send(const Json& message) {
  send_text(message.dump() + "\r\n");
}

void event(const char* name, const Json& data = nullptr) {
  Json message = {{"event", name}, {"timestamp", {{"seconds", 1}, {"microseconds", 2}}}};
  if (!data.is_null()) {
    message["data"] = data;
  }
  send(message);
}

[[noreturn]] void shut_down(const char* reason, bool guest, int code) {
  event("SHUTDOWN", {{"guest", guest}, {"reason", reason}});
  if (told("linger")) {
    ::close(kQmp);
    ::sleep(3);
  }
  std::exit(code);
}

/// After the guest was let run.
void live() {
  event("RESUME");
  attempt();
  if (const int signal = number("die", 0); signal != 0) {
    std::signal(signal, SIG_DFL);
    ::raise(signal);
  }
  if (told("exit")) {
    std::exit(number("exit", 0));
  }
  if (told("bad-events")) {
    event("BLOCK_IO_ERROR", {{"device", 7}, {"reason", Json::object()}});
    event("WATCHDOG", {{"action", nullptr}});
    event("SHUTDOWN", {{"guest", 5}, {"reason", Json::array()}});
    std::exit(0);
  }
  if (told("silent-exit")) {
    std::exit(0);
  }
  if (told("failing-exit")) {
    std::exit(1);
  }
  if (told("watchdog")) {
    event("WATCHDOG", {{"action", "poweroff"}});
    std::exit(0);
  }
  if (told("panic")) {
    event("GUEST_PANICKED", {{"action", "poweroff"}});
    shut_down("guest-panic", true, 0);
  }
  if (told("shut-monitor")) {
    ::close(kQmp);
    wait_for_ever();
  }
  if (told("garble-monitor")) {
    send_text(std::string(2000, '{'));
    wait_for_ever();
  }
  if (told("shutdown")) {
    shut_down("guest-shutdown", true, 0);
  }
}

void answer(const Json& command) {
  const std::string name = command.value("execute", "");
  const Json done = {{"return", Json::object()}, {"id", command["id"]}};
  if (name == "qmp_capabilities") {
    if (!told("no-answer")) {
      send(done);
    }
  } else if (name == "cont") {
    if (told("refuse-cont")) {
      send({{"error", {{"class", "GenericError"}, {"desc", "not today"}}}, {"id", command["id"]}});
      return;
    }
    send(done);
    live();
  } else if (name == "query-cpus-fast") {
    const Json vcpu = {{"cpu-index", 0}, {"thread-id", number("thread", ::getpid())}};
    send({{"return", {vcpu}}, {"id", command["id"]}});
  } else if (name == "query-status") {
    send({{"return", {{"running", true}, {"status", "running"}}}, {"id", command["id"]}});
  } else if (name == "system_powerdown") {
    std::fprintf(stderr, "probe: power button\n");
    send(done);
    if (!told("ignore-powerdown")) {
      shut_down("guest-shutdown", true, 0);
    }
  } else if (name == "quit" && !told("ignore-quit")) {
    event("SHUTDOWN", {{"guest", false}, {"reason", "host-qmp-quit"}});
    send(done);
    std::exit(0);
  } else {
    send(done);
  }
}

void serve() {
  std::string buffer;
  std::array<char, 4096> piece{};
  for (;;) {
    const ssize_t got = ::read(kQmp, piece.data(), piece.size());
    if (got <= 0) {
      if (told("survive-eof")) {
        wait_for_ever();
      }
      std::exit(4);
    }
    buffer.append(piece.data(), static_cast<std::size_t>(got));
    for (std::size_t end = buffer.find('\n'); end != std::string::npos; end = buffer.find('\n')) {
      std::string line = buffer.substr(0, end);
      buffer.erase(0, end + 1);
      if (!line.empty() && line[0] == '\xff') {
        send({{"error", {{"class", "GenericError"}, {"desc", "stray"}}}});
        line.erase(0, 1);
      }
      if (!line.empty()) {
        answer(Json::parse(line));
      }
    }
  }
}

extern "C" void on_terminate(int /*signal*/) {
  if (told("ignore-term")) {
    return;
  }
  ::_exit(0);  // as QEMU does, without a word to a monitor that is gone
}

}  // namespace

int main(int argc, char** argv) {
  words.assign(argv, argv + argc);
  if (told("ignore-term") || told("shut-monitor") || told("garble-monitor")) {
    std::signal(SIGTERM, on_terminate);
  }
  if (told("fail-early")) {
    std::fprintf(stderr, "probe: -device nonsense: no such device\n");
    return 1;
  }
  if (told("flood")) {
    for (int i = 0; i < 5000; ++i) {
      std::fprintf(stderr, "flood %d\n", i);
    }
  }
  if (told("no-greeting")) {
    wait_for_ever();
  }
  const Json version = {{"qemu", {{"major", 7}, {"minor", 2}, {"micro", 0}}}, {"package", "probe"}};
  send({{"QMP", {{"version", version}, {"capabilities", Json::array()}}}});
  if (told("fail-late")) {
    ::close(kQmp);
    ::usleep(300'000);
    std::fprintf(stderr, "probe: cannot pin guest memory\n");
    return 1;
  }
  if (told("fail-after-greeting")) {
    std::fprintf(stderr, "probe: cannot set up guest memory\n");
    return 1;
  }
  serve();
}
