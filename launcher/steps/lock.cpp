#include "launcher/steps/lock.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"

namespace vmlaunch::launcher::steps {

namespace {

std::string path_in(const std::string& folder, const std::string& name) {
  return folder + "/" + name + ".lock";
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

std::optional<Lock> Lock::take(const std::string& folder, const std::string& name) {
  const std::string path = path_in(folder, name);
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
      return Lock(path, std::move(file));
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

std::string Lock::describe_holder(const std::string& folder, const std::string& name) {
  const std::optional<pid_t> pid = holder(folder, name);
  return pid ? " (its guardian is pid " + std::to_string(*pid) + ")" : "";
}

Lock::~Lock() {
  if (file_) {
    static_cast<void>(::unlink(path_.c_str()));
  }
}

}  // namespace vmlaunch::launcher::steps
