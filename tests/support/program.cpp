#include "tests/support/program.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"

namespace vmlaunch::tests {

namespace {

using base::check;
using std::chrono::steady_clock;

steady_clock::time_point after(Seconds limit) {
  return steady_clock::now() + std::chrono::duration_cast<steady_clock::duration>(limit);
}

[[noreturn]] void exec_in_child(const Launch& launch, int input, int output, int errors) {
  ::setsid();
  if (launch.terminal) {
    ::ioctl(input, TIOCSCTTY, 0);
  }
  ::dup2(input, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(errors, STDERR_FILENO);
  const int program = ::open(launch.arguments[0].c_str(), O_PATH | O_CLOEXEC);
  if (launch.uid &&
      (::setgroups(0, nullptr) != 0 || ::setresgid(*launch.uid, *launch.uid, *launch.uid) != 0 ||
       ::setresuid(*launch.uid, *launch.uid, *launch.uid) != 0)) {
    ::_exit(125);
  }
  if (::chdir(launch.folder.c_str()) != 0) {
    ::_exit(125);
  }
  std::vector<std::string> environment = launch.environment;
  environment.insert(environment.end(),
                     {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "ASAN_OPTIONS=detect_leaks=0"});
  std::vector<char*> arguments;
  std::vector<char*> variables;
  variables.reserve(environment.size() + 1);
  for (const std::string& argument : launch.arguments) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  for (const std::string& variable : environment) {
    variables.push_back(const_cast<char*>(variable.c_str()));
  }
  arguments.push_back(nullptr);
  variables.push_back(nullptr);
  ::syscall(SYS_execveat, program, "", arguments.data(), variables.data(), AT_EMPTY_PATH);
  ::_exit(126);
}

}  // namespace

Program::Program(const Launch& given) {
  Launch launch = given;
  const bool has_state = std::any_of(
      launch.environment.begin(), launch.environment.end(), [](const std::string& variable) {
        return variable.starts_with("XDG_STATE_HOME=");
      });
  if (launch.uid && !has_state) {
    state_.emplace();
    check(::chown(state_->path().c_str(), *launch.uid, *launch.uid), "give the state folder");
    launch.environment.push_back("XDG_STATE_HOME=" + state_->path());
  }
  base::Pipe output = base::make_pipe();
  base::Pipe input;
  int master = -1;
  int slave = -1;
  if (launch.terminal) {
    check(::openpty(&master, &slave, nullptr, nullptr, nullptr), "open a terminal");
    check(::fcntl(master, F_SETFD, FD_CLOEXEC), "mark the terminal");
    if (launch.uid) {
      check(::fchown(slave, *launch.uid, *launch.uid), "give the terminal");
    }
  } else {
    input = base::make_pipe();
  }
  child_ = base::fork_child(launch.arguments.at(0));
  if (child_.pid == 0) {
    if (launch.terminal) {
      exec_in_child(launch, slave, slave, slave);
    }
    exec_in_child(launch, input.read_end.get(), output.write_end.get(), output.write_end.get());
  }
  if (launch.terminal) {
    static_cast<void>(::close(slave));
    input_.reset(master);
    output_fd_ = base::duplicate(master);
  } else {
    input_ = std::move(input.write_end);
    output_fd_ = std::move(output.read_end);
  }
}

Program::~Program() {
  if (!status_) {
    static_cast<void>(base::send_signal(child_.pidfd.get(), SIGKILL));
    static_cast<void>(base::reap_within(child_.pidfd.get(), std::chrono::seconds(10)));
  }
}

bool Program::read_some(steady_clock::time_point deadline) {
  if (at_end_ || !base::wait_readable(output_fd_.get(), deadline)) {
    return false;
  }
  std::array<char, 65536> buffer{};
  const ssize_t got = ::read(output_fd_.get(), buffer.data(), buffer.size());
  if (got <= 0) {  // a terminal whose other end is closed says EIO
    at_end_ = true;
    return false;
  }
  output_.append(buffer.data(), static_cast<std::size_t>(got));
  return true;
}

bool Program::says(const std::string& text, Seconds limit) {
  const auto deadline = after(limit);
  while (output_.find(text) == std::string::npos) {
    if (!read_some(deadline)) {
      return false;
    }
  }
  return true;
}

bool Program::says_often(const std::string& text, std::size_t times, Seconds limit) {
  const auto deadline = after(limit);
  std::size_t found = 0;
  std::size_t from = 0;
  while (found < times) {
    if (const std::size_t at = output_.find(text, from); at != std::string::npos) {
      from = at + text.size();
      ++found;
    } else if (!read_some(deadline)) {
      return false;
    }
  }
  return true;
}

void Program::type(const std::string& text) {
  base::write_all(input_.get(), text, "the program's input");
}

void Program::hang_up() {
  input_.reset();
  output_fd_.reset();
  at_end_ = true;
}

void Program::signal(int number) {
  static_cast<void>(base::send_signal(child_.pidfd.get(), number));
}

std::optional<base::ExitStatus> Program::wait(Seconds limit) {
  const auto deadline = after(limit);
  while (!status_) {
    // The output is read on, so that a full pipe does not hold the program up.
    static_cast<void>(read_some(std::min(deadline, after(Seconds(0.005)))));
    status_ = base::try_reap(child_.pidfd.get());
    if (at_end_ && !status_) {
      status_ = base::reap_within(child_.pidfd.get(), std::chrono::milliseconds(5));
    }
    if (!status_ && steady_clock::now() > deadline) {
      return std::nullopt;
    }
  }
  while (read_some(steady_clock::now())) {
  }
  return status_;
}

int Program::exit_code(Seconds limit) {
  const auto status = wait(limit);
  if (!status) {
    return -1;
  }
  return status->signal != 0 ? 128 + status->signal : status->code;
}

long Program::number_after(const std::string& marker) const {
  const std::size_t found = output_.find(marker);
  return found == std::string::npos
             ? -1
             : std::strtol(output_.c_str() + found + marker.size(), nullptr, 10);
}

bool lives(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');
  return name_end != std::string::npos && line.size() > name_end + 2 && line[name_end + 2] != 'Z' &&
         line[name_end + 2] != 'X';
}

pid_t parent_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t name_end = line.rfind(')');
  return name_end == std::string::npos
             ? 0
             : std::atoi(line.c_str() + std::min(line.size(), name_end + 4));
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const pid_t number = std::atoi(entry.path().filename().c_str());
    if (number > 0 && parent_of(number) == pid && lives(number)) {
      children.push_back(number);
    }
  }
  return children;
}

std::vector<pid_t> processes_naming(const std::string& text) {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string line(std::istreambuf_iterator<char>(file), {});
    if (line.find(text) != std::string::npos) {
      found.push_back(std::atoi(entry.path().filename().c_str()));
    }
  }
  return found;
}

Folder::Folder() : Folder("") {}

Folder::Folder(const std::string& odd) : Folder(odd, std::filesystem::temp_directory_path()) {}

Folder::Folder(const std::string& odd, const std::string& parent) {
  std::string name = parent + "/vmlaunch-test-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) {
    base::throw_errno("make a temporary folder");
  }
  root_ = name;
  check(::chmod(root_.c_str(), 0755), "open the temporary folder");
  path_ = odd.empty() ? root_ : root_ + "/" + odd;
  std::filesystem::create_directories(path_);
}

void make_socket(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const base::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  check(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
        "make a socket");
}

Folder shared_folder() {
  return {"", "/var/tmp"};
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

std::string Folder::write(const std::string& name,
                          const std::string& content,
                          unsigned mode) const {
  std::string path = file(name);
  std::ofstream(path, std::ios::binary) << content;
  check(::chmod(path.c_str(), mode), "set the mode of " + path);
  return path;
}

std::string Folder::copy(const std::string& program, const std::string& name) const {
  std::string path = file(name);
  std::filesystem::copy_file(program, path);
  check(::chmod(path.c_str(), 0755), "set the mode of " + path);
  return path;
}

std::vector<std::string> Folder::names() const {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path_)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace vmlaunch::tests
