#include "tests/support/real_qemu.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <tuple>
#include <utility>

#include "base/file.hpp"

namespace vmlaunch::tests {

namespace {

constexpr int kMonitor = 3;

std::vector<std::string> command_line(const QemuSetup& setup) {
  const std::string way = setup.path.empty() ? "fd=" + std::to_string(kMonitor)
                                             : "path=" + setup.path + ",server=on,wait=off";
  std::vector<std::string> words = {"qemu-system-x86_64",
                                    "-nodefaults",
                                    "-no-user-config",
                                    "-display",
                                    "none",
                                    "-chardev",
                                    "socket,id=qmp," + way,
                                    "-mon",
                                    "chardev=qmp,mode=control" + setup.monitor_options};
  words.insert(words.end(), setup.arguments.begin(), setup.arguments.end());
  return words;
}

[[noreturn]] void exec_qemu(std::vector<std::string> words, int monitor, int errors) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::dup2(errors, STDERR_FILENO);
  if (monitor >= 0) {
    ::dup2(::fcntl(monitor, F_DUPFD_CLOEXEC, kMonitor + 1), kMonitor);
  }
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) {
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  ::_exit(127);
}

}  // namespace

RealQemu::RealQemu(const QemuSetup& setup) {
  base::UniqueFd theirs;
  if (setup.path.empty()) {
    std::tie(monitor_, theirs) = base::make_socket_pair(SOCK_STREAM);
  }
  base::Pipe errors = base::make_pipe();
  child_ = base::fork_child("QEMU");
  if (child_.pid == 0) {
    exec_qemu(command_line(setup), theirs.get(), errors.write_end.get());
  }
  errors_ = std::move(errors.read_end);
  base::set_nonblocking(errors_.get());
}

RealQemu::~RealQemu() {
  signal(SIGKILL);
  static_cast<void>(wait());
}

void RealQemu::signal(int number) {
  static_cast<void>(base::send_signal(child_.pidfd.get(), number));
}

std::optional<base::ExitStatus> RealQemu::wait(Seconds limit) {
  if (!status_) {
    status_ = base::reap_within(child_.pidfd.get(),
                                std::chrono::duration_cast<std::chrono::milliseconds>(limit));
  }
  return status_;
}

std::string RealQemu::errors() {
  std::array<char, 65536> buffer{};
  const ssize_t got = ::read(errors_.get(), buffer.data(), buffer.size());
  if (got > 0) {
    text_.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text_;
}

}  // namespace vmlaunch::tests
