#include "launcher/steps/lock.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "base/tree.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr const char* kEnding = ".lock";
/// What a recovery writes to its lock; no VM has that name.
constexpr const char* kRecovery = "a recovery";
constexpr std::chrono::minutes kRecoveryDeadline{1};
constexpr std::chrono::minutes kTurnDeadline{2};
constexpr std::chrono::seconds kNews{2};

void pause() {
  const timespec moment{0, 20'000'000};
  ::nanosleep(&moment, nullptr);
}

std::string path_in(const std::string& folder, const std::string& name) {
  return folder + "/" + name + kEnding;
}

/// Of all locks that are there, had or left over.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const std::string& file : base::Tree("").list(folder)) {
    if (file.ends_with(kEnding)) {
      names.push_back(file.substr(0, file.size() - std::string_view(kEnding).size()));
    }
  }
  return names;
}

/// What whoever has it wrote there.
bool is_recovery(const std::string& path) {
  return base::Tree("").read(path) == kRecovery;
}

/// The parent's process number of /proc/PID/status.
std::optional<pid_t> parent_of(pid_t pid) {
  const std::string status =
      base::Tree("").read("/proc/" + std::to_string(pid) + "/status").value_or("");
  constexpr std::string_view kKey = "\nPPid:\t";
  const std::size_t start = status.find(kKey);
  if (start == std::string::npos) {
    return std::nullopt;
  }
  const std::string rest = status.substr(start + kKey.size());
  return base::parse_number<pid_t>(rest.substr(0, rest.find('\n')));
}

/// What asks the VM to shut down: a signal to its vmlaunch, which is the guardian's parent unless
/// systemd is.
std::string way_to_stop(pid_t guardian) {
  const std::optional<pid_t> parent = parent_of(guardian);
  const bool is_ours =
      parent && base::Tree("").read("/proc/" + std::to_string(*parent) + "/comm") == "vmlaunch";
  return is_ours ? "; to shut it down, type: kill " + std::to_string(*parent) : "";
}

struct flock whole_file(short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  return lock;
}

bool is_at(int fd, const std::string& path) {
  struct stat open {};
  struct stat named {};
  return ::fstat(fd, &open) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

}  // namespace

std::optional<Lock> Lock::try_to_take(const std::string& path, const std::string& content) {
  for (;;) {
    base::UniqueFd file = base::open_file(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    struct flock lock = whole_file(F_WRLCK);
    if (::fcntl(file.get(), F_SETLK, &lock) != 0) {
      if (errno == EACCES || errno == EAGAIN) {
        return std::nullopt;
      }
      base::throw_errno("lock " + path);
    }
    // Whoever had it may have taken the file away between our open and our lock.
    if (is_at(file.get(), path)) {
      base::check(::ftruncate(file.get(), 0), "write " + path);
      base::write_all(file.get(), content, path);
      return Lock(path, std::move(file));
    }
  }
}

std::optional<Lock> Lock::take(const std::string& folder,
                               const std::string& name,
                               Purpose purpose,
                               const std::string& vm) {
  const std::string path = path_in(folder, name);
  const auto deadline = std::chrono::steady_clock::now() + kRecoveryDeadline;
  for (;;) {
    std::optional<Lock> lock = try_to_take(path, purpose == Purpose::recovery ? kRecovery : vm);
    if (lock || !is_recovery(path) || std::chrono::steady_clock::now() > deadline) {
      return lock;
    }
    pause();
  }
}

Lock Lock::wait_for(const std::string& folder,
                    const std::string& name,
                    const std::string& vm,
                    const std::function<void(const std::string& text)>& waiting) {
  const auto start = std::chrono::steady_clock::now();
  for (auto told = start - kNews;;) {
    if (std::optional<Lock> lock = try_to_take(path_in(folder, name), vm)) {
      return std::move(*lock);
    }
    const auto now = std::chrono::steady_clock::now();
    if (now - start > kTurnDeadline) {
      throw Failure(ExitCode::held,
                    "Cannot have its turn for " + name + ": " + describe_owner(folder, name) +
                        "; try again once that has started or ended");
    }
    if (waiting && now - told >= kNews) {
      told = now;
      waiting("waiting for " + name + ": " + describe_owner(folder, name));
    }
    pause();
  }
}

void Lock::clear(const std::string& folder) {
  for (const std::string& name : names_in(folder)) {
    try {
      static_cast<void>(try_to_take(path_in(folder, name), kRecovery));
    } catch (const std::system_error&) {
      // Whoever needs this one hears what is the matter with it.
    }
  }
}

std::optional<pid_t> Lock::holder(const std::string& folder, const std::string& name) {
  const base::UniqueFd file(
      ::open(path_in(folder, name).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  struct flock lock = whole_file(F_WRLCK);
  if (!file || ::fcntl(file.get(), F_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) {
    return std::nullopt;
  }
  return lock.l_pid;
}

std::string Lock::describe_owner(const std::string& folder, const std::string& name) {
  const std::string vm = base::Tree("").read(path_in(folder, name)).value_or("");
  const bool is_known = !vm.empty() && vm != kRecovery;
  return (is_known ? "the VM " + base::printable(vm) + " has it" : "a VM that runs has it") +
         describe_holder(folder, name);
}

std::string Lock::describe_holder(const std::string& folder, const std::string& name) {
  const std::optional<pid_t> pid = holder(folder, name);
  if (!pid) {
    return "";
  }
  return is_recovery(path_in(folder, name))
             ? " (pid " + std::to_string(*pid) + " recovers it)"
             : " (its guardian is pid " + std::to_string(*pid) + way_to_stop(*pid) + ")";
}

std::map<std::string, std::string> Lock::had_by_runs(const std::string& folder) {
  std::map<std::string, std::string> had;
  for (const std::string& name : names_in(folder)) {
    if (holder(folder, name) && !is_recovery(path_in(folder, name))) {
      had.emplace(name, describe_owner(folder, name));
    }
  }
  return had;
}

Lock::~Lock() {
  if (file_) {
    static_cast<void>(::unlink(path_.c_str()));
  }
}

}  // namespace vmlaunch::launcher::steps
