#include "base/tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <system_error>

#include <climits>

#include "base/errors.hpp"
#include "base/file.hpp"

namespace vmlaunch::base {

namespace {

/// /proc/cpuinfo has a page for each CPU.
constexpr std::size_t kFileLimit = std::size_t{16} << 20U;

/// How often a path is walked again when folders were renamed meanwhile.
constexpr int kWalks = 1000;

std::string own_path(int fd) {
  return "/proc/self/fd/" + std::to_string(fd);
}

std::optional<std::string> target_of(int folder, const std::string& name) {
  std::array<char, PATH_MAX> target{};
  const ssize_t length = ::readlinkat(folder, name.c_str(), target.data(), target.size());
  if (length <= 0) {
    return std::nullopt;
  }
  return std::string(target.data(), static_cast<std::size_t>(length));
}

bool is_no_right(int error) {
  return error == EACCES || error == EPERM;
}

}  // namespace

Tree::Tree(const std::string& root)
    : root_(root), folder_(open_file(root.empty() ? "/" : root, O_PATH | O_DIRECTORY)) {
  // Without the system call everything else would look as if nothing were there.
  check(open("/", O_PATH).get(), "look below " + (root.empty() ? "/" : root));
}

UniqueFd Tree::open(const std::string& path, int flags) const {
  open_how how{};
  how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  long fd = -1;
  // The kernel says EAGAIN for a ".." when anything anywhere was renamed, and sysfs links have
  // many.
  for (int walk = 0; walk < kWalks; ++walk) {
    fd = ::syscall(SYS_openat2, folder_.get(), path.c_str(), &how, sizeof how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) {
      break;
    }
  }
  return UniqueFd(static_cast<int>(fd));
}

bool Tree::exists(const std::string& path) const {
  return static_cast<bool>(open(path, O_PATH));
}

bool Tree::is_hidden(const std::string& path) const {
  const UniqueFd fd = open(path, O_PATH);
  if (!fd) {
    return is_no_right(errno);
  }
  return ::faccessat(AT_FDCWD, own_path(fd.get()).c_str(), R_OK, AT_EACCESS) != 0 &&
         is_no_right(errno);
}

std::optional<struct stat> Tree::status(const std::string& path) const {
  const UniqueFd fd = open(path, O_PATH);
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0) {
    return std::nullopt;
  }
  return info;
}

std::optional<std::string> Tree::read(const std::string& path) const {
  const UniqueFd place = open(path, O_PATH);
  struct stat info {};
  if (!place || ::fstat(place.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return std::nullopt;
  }
  try {
    const UniqueFd fd = open_file(own_path(place.get()), O_RDONLY);
    std::string text = read_all(fd.get(), kFileLimit, path);
    if (text.ends_with('\n')) {
      text.pop_back();
    }
    return text;
  } catch (const std::system_error&) {
    return std::nullopt;
  }
}

std::vector<std::string> Tree::list(const std::string& path) const {
  std::vector<std::string> names;
  UniqueFd fd = open(path, O_RDONLY | O_DIRECTORY);
  if (!fd) {
    return names;
  }
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::fdopendir(fd.get()), ::closedir);
  if (!folder) {
    return names;
  }
  static_cast<void>(fd.release());  // the folder's now
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") {
      names.push_back(name);
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<std::string> Tree::link_name(const std::string& path) const {
  const UniqueFd fd = open(path, O_PATH | O_NOFOLLOW);
  const std::optional<std::string> target = fd ? target_of(fd.get(), "") : std::nullopt;
  if (!target) {
    return std::nullopt;
  }
  return target->substr(target->rfind('/') + 1);
}

std::optional<std::string> Tree::resolve(const std::string& path) const {
  const UniqueFd fd = open(path, O_PATH);
  if (!fd) {
    return std::nullopt;
  }
  std::optional<std::string> real = target_of(AT_FDCWD, own_path(fd.get()));
  const auto root = target_of(AT_FDCWD, own_path(folder_.get()));
  if (!real || !root) {
    return std::nullopt;
  }
  if (*root == "/") {
    return real;
  }
  // Somebody who moves folders meanwhile may have moved this one out of the tree.
  if (*real != *root && !real->starts_with(*root + "/")) {
    return std::nullopt;
  }
  return *real == *root ? "/" : real->substr(root->size());
}

}  // namespace vmlaunch::base
