#include "launcher/guardian/plan_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <system_error>
#include <utility>

#include <climits>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::guardian {

namespace {

using plan::FileUse;

/// The largest template that is copied: UEFI variable stores are some 100 KiB.
constexpr std::size_t kTemplateLimit = std::size_t{64} << 20U;

std::string user_text() {
  return "uid " + std::to_string(::geteuid());
}

std::string what_is_missing(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  return std::filesystem::exists(folder, error)
             ? "the file"
             : "its folder: mkdir -p " + base::shell_quote(folder.string());
}

std::string what_to_do(int error, const std::string& path) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return "correct the path in the config, or make " + what_is_missing(path);
    case EACCES:
    case EPERM:
      return "type: namei -l " + base::shell_quote(path);
    case EBUSY:
      return "it is mounted, swap, part of a RAID or volume group, another VM's, or named twice; "
             "type: lsblk " +
             base::shell_quote(path);
    default:
      return "type: ls -ld " + base::shell_quote(path);
  }
}

[[noreturn]] void fail(const std::string& purpose, const std::string& path, int error) {
  std::string text = "Cannot open the " + purpose + " " + base::printable(path) + " as " +
                     user_text() + ": " + base::error_text(error) + "; " + what_to_do(error, path);
  if (error == EACCES || error == EPERM) {
    throw NoRight(text);
  }
  throw Failure(ExitCode::preflight, text);
}

int open_flags(FileUse::Access access) {
  switch (access) {
    case FileUse::Access::read:
      return O_RDONLY;
    case FileUse::Access::read_write:
      return O_RDWR;
    case FileUse::Access::append:
      return O_WRONLY | O_APPEND;
  }
  return O_RDONLY;
}

/// Non-blocking, so that a FIFO does not hold us; then only what can be a disk or a file passes.
/// For a block device to be written O_EXCL claims it, as a mount does: while one of them has it the
/// other cannot get it (open(2)). On a file it has no effect here.
base::UniqueFd open_existing(const FileUse& file) {
  const int claim = file.access == FileUse::Access::read_write ? O_EXCL : 0;
  const int direct = file.direct ? O_DIRECT : 0;
  base::UniqueFd fd(
      ::open(file.path.c_str(),
             open_flags(file.access) | claim | direct | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd && file.direct && errno == EINVAL) {
    throw Failure(ExitCode::preflight,
                  "Cannot open the " + file.purpose + " " + base::printable(file.path) +
                      " past the page cache, which \"cache\": \"none\" needs: its file system has "
                      "no O_DIRECT; take another cache, or another place: df -T " +
                      base::shell_quote(file.path));
  }
  if (!fd) {
    // A FIFO without a reader says ENXIO to who wants to write.
    fail(file.purpose, file.path, errno);
  }
  struct stat info {};
  base::check(::fstat(fd.get(), &info), "look at " + file.path);
  const bool may_be_block = file.create == FileUse::Create::never && !file.reopened;
  if (!S_ISREG(info.st_mode) && !(may_be_block && S_ISBLK(info.st_mode))) {
    throw Failure(ExitCode::preflight,
                  "Cannot use the " + file.purpose + " " + base::printable(file.path) +
                      ": it is not a regular file" + (may_be_block ? " or block device" : "") +
                      "; type: ls -ld " + base::shell_quote(file.path));
  }
  const int flags = base::check(::fcntl(fd.get(), F_GETFL), "read the flags of " + file.path);
  base::check(::fcntl(fd.get(), F_SETFL, flags & ~O_NONBLOCK), "set the flags of " + file.path);
  return fd;
}

/// All of it or nothing: written beside its place under another name, then linked there. False when
/// somebody else made it meanwhile.
bool make_file(const FileUse& file) {
  std::string content;
  if (file.create == FileUse::Create::from_template) {
    const FileUse source{file.purpose + "' template", file.template_path};
    const base::UniqueFd fd = open_existing(source);
    content = base::read_all(fd.get(), kTemplateLimit, file.template_path);
  }
  const std::string temporary = file.path + ".new-" + std::to_string(::getpid());
  base::UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) {
    fail(file.purpose, file.path, errno);
  }
  const std::unique_ptr<const std::string, void (*)(const std::string*)> remove(
      &temporary, [](const std::string* path) { static_cast<void>(::unlink(path->c_str())); });
  base::write_all(fd.get(), content, temporary);
  base::check(::fsync(fd.get()), "write " + temporary);
  if (::link(temporary.c_str(), file.path.c_str()) == 0) {
    return true;
  }
  if (errno != EEXIST) {
    fail(file.purpose, file.path, errno);
  }
  return false;
}

/// QEMU takes no lock on a flash image, so two VMs could share one. The lock belongs to the open
/// file and so lives as long as QEMU does; QEMU's own locks are on other bytes
/// (block/file-posix.c).
void lock_variables(const FileUse& file, int fd) {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_len = 1;
  if (::fcntl(fd, F_OFD_SETLK, &lock) != 0) {
    throw Failure(ExitCode::preflight,
                  "Cannot use the " + file.purpose + " " + base::printable(file.path) +
                      ": another VM uses it; type: fuser -v " + base::shell_quote(file.path));
  }
}

}  // namespace

bool must_be_made(const FileUse& file) {
  struct stat info {};
  return file.create != FileUse::Create::never && ::lstat(file.path.c_str(), &info) != 0 &&
         errno == ENOENT;
}

OpenFile open_plan_file(const FileUse& file) {
  const bool made = must_be_made(file) && make_file(file);
  OpenFile open{open_existing(file), made};
  if (file.create == FileUse::Create::from_template) {
    lock_variables(file, open.fd.get());
  }
  return open;
}

void check_plan_file(const FileUse& file) {
  if (!must_be_made(file)) {
    static_cast<void>(open_existing(file));
    return;
  }
  if (file.create == FileUse::Create::from_template) {
    static_cast<void>(open_existing({file.purpose + "' template", file.template_path}));
  }
  const std::string folder = std::filesystem::path(file.path).parent_path();
  if (::faccessat(AT_FDCWD, folder.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    fail(file.purpose, file.path, errno);
  }
}

void require_distinct_files(const plan::Plan& plan, const std::vector<OpenFile>& files) {
  std::map<std::pair<dev_t, ino_t>, const FileUse*> seen;
  for (std::size_t i = 0; i < files.size(); ++i) {
    struct stat info {};
    if (!files[i].fd || ::fstat(files[i].fd.get(), &info) != 0) {
      continue;
    }
    // A block device has many nodes.
    const auto identity = S_ISBLK(info.st_mode) ? std::pair(dev_t{0}, ino_t{info.st_rdev})
                                                : std::pair(info.st_dev, info.st_ino);
    const FileUse& file = plan.files[i];
    const auto [first, is_new] = seen.emplace(identity, &file);
    const FileUse& other = *first->second;
    const bool written =
        file.access != FileUse::Access::read || other.access != FileUse::Access::read;
    if (!is_new && written) {
      throw Failure(ExitCode::preflight,
                    "Cannot use " + base::printable(file.path) + " as the " + file.purpose +
                        ": it is the same file as the " + other.purpose + ", " +
                        base::printable(other.path) + "; type: ls -iL " +
                        base::shell_quote(file.path) + " " + base::shell_quote(other.path));
    }
  }
}

void remove_made_files(const plan::Plan& plan, const std::vector<OpenFile>& files) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    const std::string& path = plan.files[i].path;
    struct stat ours {};
    struct stat named {};
    if (files[i].made && ::fstat(files[i].fd.get(), &ours) == 0 &&
        ::lstat(path.c_str(), &named) == 0 && ours.st_dev == named.st_dev &&
        ours.st_ino == named.st_ino) {
      static_cast<void>(::unlink(path.c_str()));
    }
  }
}

base::UniqueFd open_program(const std::string& path) {
  base::UniqueFd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd && errno == ENOENT) {
    throw Failure(ExitCode::preflight,
                  "Cannot find the program " + base::printable(path) +
                      "; type: apt install qemu-system-x86, or correct qemu.binary in the config");
  }
  if (!fd) {
    fail("program", path, errno);
  }
  struct stat info {};
  base::check(::fstat(fd.get(), &info), "look at " + path);
  if (!S_ISREG(info.st_mode) || (info.st_mode & 0111U) == 0) {
    throw Failure(ExitCode::preflight,
                  "Cannot run " + base::printable(path) +
                      ": it is not an executable file; type: ls -ld " + base::shell_quote(path));
  }
  return fd;
}

namespace {

/// Whether only root decides what `name` means in `folder`. In a sticky folder others may add
/// names, but not take root's own away.
bool only_root_decides(const std::filesystem::path& folder, const std::filesystem::path& name) {
  struct stat info {};
  if (::lstat(folder.c_str(), &info) != 0) {
    fail("folder", folder, errno);
  }
  if (info.st_uid != 0) {
    return false;
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) == 0) {
    return true;
  }
  struct stat entry {};
  return (info.st_mode & S_ISVTX) != 0 && ::lstat(name.c_str(), &entry) == 0 && entry.st_uid == 0;
}

}  // namespace

std::string require_roots_own_path(const std::string& path) {
  constexpr int kMostLinks = 40;  // as the kernel
  const std::filesystem::path given = path;
  std::deque<std::filesystem::path> left(given.begin(), given.end());
  std::filesystem::path real = "/";
  for (int links = 0; !left.empty();) {
    const std::filesystem::path part = left.front();
    left.pop_front();
    if (part == "/" || part == "..") {
      real = part == "/" ? part : real.parent_path();
    } else if (!part.empty() && part != ".") {
      const std::filesystem::path entry = real / part;
      if (!only_root_decides(real, entry)) {
        throw Failure(
            ExitCode::preflight,
            "Cannot open " + base::printable(path) + " as root: others than root can change " +
                base::printable(real.string()) + "; type: namei -l " + base::shell_quote(path));
      }
      std::error_code not_there;
      if (!std::filesystem::is_symlink(std::filesystem::symlink_status(entry, not_there))) {
        real = entry;
        continue;
      }
      if (++links > kMostLinks) {
        fail("file", path, ELOOP);
      }
      const std::filesystem::path target = std::filesystem::read_symlink(entry);
      left.insert(left.begin(), target.begin(), target.end());
    }
  }
  return real;
}

}  // namespace vmlaunch::launcher::guardian
