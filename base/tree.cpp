#include "base/tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <memory>

#include "base/file.hpp"

namespace vmlaunch::base {

namespace {

constexpr std::size_t kFileLimit = std::size_t{1} << 20U;

std::optional<std::string> target_of(int folder, const char* name) {
  std::array<char, PATH_MAX> target{};
  const ssize_t length = ::readlinkat(folder, name, target.data(), target.size());
  if (length <= 0) {
    return std::nullopt;
  }
  return std::string(target.data(), static_cast<std::size_t>(length));
}

}  // namespace

Tree::Tree(const std::string& root)
    : root_(root), folder_(open_file(root.empty() ? "/" : root, O_PATH | O_DIRECTORY)) {}

UniqueFd Tree::open(const std::string& path, int flags) const {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  return UniqueFd(static_cast<int>(
      ::syscall(SYS_openat2, folder_.get(), path.c_str(), &how, sizeof how)));
}

bool Tree::exists(const std::string& path) const {
  return static_cast<bool>(open(path, O_PATH));
}

std::optional<std::string> Tree::read(const std::string& path) const {
  const UniqueFd fd = open(path, O_RDONLY);
  struct stat info {};
  if (!fd || ::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return std::nullopt;
  }
  try {
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
  const std::string self = "/proc/self/fd/";
  const auto real = target_of(AT_FDCWD, (self + std::to_string(fd.get())).c_str());
  const auto root = target_of(AT_FDCWD, (self + std::to_string(folder_.get())).c_str());
  if (!real || !root) {
    return std::nullopt;
  }
  return *root == "/" ? *real : real->substr(std::min(root->size(), real->size()));
}

}  // namespace vmlaunch::base
