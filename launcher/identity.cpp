#include "launcher/identity.hpp"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <vector>

#include "base/errors.hpp"
#include "base/text.hpp"
#include "base/unique_fd.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher {

namespace {

/// uids above those of containers and below those that are invalid; nothing assigns them. A process
/// number is below 2^22, so no two runs that live at once share one.
constexpr uid_t kSupervisorUids = 1880000000;
constexpr uid_t kQemuUids = 1890000000;

User unused_user(uid_t range) {
  const uid_t uid = range + static_cast<uid_t>(::getpid());
  return {"uid " + std::to_string(uid), {uid, static_cast<gid_t>(uid), {}}};
}

User from_passwd(const passwd& entry) {
  std::vector<gid_t> groups(64);
  int count = static_cast<int>(groups.size());
  if (::getgrouplist(entry.pw_name, entry.pw_gid, groups.data(), &count) < 0) {
    groups.resize(static_cast<std::size_t>(count));
    ::getgrouplist(entry.pw_name, entry.pw_gid, groups.data(), &count);
  }
  groups.resize(static_cast<std::size_t>(count));
  return {entry.pw_name, {entry.pw_uid, entry.pw_gid, groups}};
}

std::optional<User> look_up(const std::string& name_or_uid) {
  std::vector<char> buffer(65536);
  passwd entry{};
  passwd* found = nullptr;
  const auto uid = base::parse_number<uid_t>(name_or_uid);
  const int error =
      uid ? ::getpwuid_r(*uid, &entry, buffer.data(), buffer.size(), &found)
          : ::getpwnam_r(name_or_uid.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (error == 0 && found != nullptr) {
    return from_passwd(*found);
  }
  if (uid) {
    return User{"uid " + name_or_uid, {*uid, static_cast<gid_t>(*uid), {}}};
  }
  return std::nullopt;
}

User current_user() {
  std::vector<gid_t> groups(
      static_cast<std::size_t>(base::check(::getgroups(0, nullptr), "count the groups")));
  base::check(::getgroups(static_cast<int>(groups.size()), groups.data()), "read the groups");
  User user = find_user(std::to_string(::getuid()));
  user.credentials = {::getuid(), ::getgid(), groups};
  return user;
}

/// For messages.
std::string path_of(int folder) {
  std::array<char, 4096> buffer{};
  const ssize_t length =
      ::readlink(("/proc/self/fd/" + std::to_string(folder)).c_str(), buffer.data(), buffer.size());
  return length > 0 ? std::string(buffer.data(), static_cast<std::size_t>(length)) : "…";
}

/// Whether others than root and `trusted` can change what this folder holds. A sticky folder of
/// root's lets nobody replace somebody else's file.
bool is_safe_folder(const struct stat& folder, uid_t trusted) {
  if (folder.st_uid != 0 && folder.st_uid != trusted) {
    return false;
  }
  const bool sticky_of_root = folder.st_uid == 0 && (folder.st_mode & S_ISVTX) != 0;
  return (folder.st_mode & (S_IWGRP | S_IWOTH)) == 0 || sticky_of_root;
}

struct stat stat_of(int fd) {
  struct stat info {};
  base::check(::fstat(fd, &info), "look at the config's folders");
  return info;
}

/// Walks from `folder` to "/" and asks each folder whether it is safe.
bool all_folders_safe(int folder, uid_t trusted) {
  base::UniqueFd current(base::check(::openat(folder, ".", O_PATH | O_DIRECTORY | O_CLOEXEC),
                                     "open the config's folder"));
  struct stat here = stat_of(current.get());
  for (;;) {
    if (!is_safe_folder(here, trusted)) {
      return false;
    }
    base::UniqueFd parent(base::check(
        ::openat(current.get(), "..", O_PATH | O_DIRECTORY | O_CLOEXEC), "open a folder"));
    const struct stat above = stat_of(parent.get());
    if (above.st_dev == here.st_dev && above.st_ino == here.st_ino) {
      return true;
    }
    current = std::move(parent);
    here = above;
  }
}

}  // namespace

User find_user(const std::string& name_or_uid) {
  const std::optional<User> user = look_up(name_or_uid);
  // System calls take the highest number for "no change".
  if (!user || user->credentials.uid == static_cast<uid_t>(-1)) {
    throw Failure(
        ExitCode::preflight,
        "Cannot find the user \"" + base::printable(name_or_uid) + "\"; see: getent passwd");
  }
  return *user;
}

Identity find_identity(const std::optional<std::string>& as) {
  if (::geteuid() != 0) {
    if (as) {
      throw Failure(ExitCode::usage,
                    "Cannot become " + base::printable(*as) +
                        ": --as needs root; type: sudo vmlaunch --as " + base::shell_quote(*as) +
                        " …");
    }
    return {false, current_user(), true};
  }
  std::optional<std::string> who = as;
  if (const char* sudo_uid = std::getenv("SUDO_UID"); !who && sudo_uid != nullptr) {
    who = sudo_uid;
  }
  if (!who || (!as && *who == "0")) {
    return {true, unused_user(kSupervisorUids), false};
  }
  if (!as && !base::parse_number<uid_t>(*who)) {
    throw Failure(ExitCode::usage,
                  "Cannot tell who the user is: SUDO_UID is \"" + base::printable(*who) +
                      "\"; use --as USER");
  }
  Identity identity{true, find_user(*who), true};
  if (identity.user.credentials.uid == 0) {
    throw Failure(ExitCode::usage,
                  "Cannot run the supervisor as root: --as takes any other user, or leave it out");
  }
  return identity;
}

User unused_qemu_user() {
  return unused_user(kQemuUids);
}

const char* to_string(Authority authority) {
  return authority == Authority::root ? "root" : "user";
}

Authority derive_authority(int config, int folder, const std::string& name, uid_t user_uid) {
  const struct stat file = stat_of(config);
  struct stat named {};
  const std::string shown = "\"" + base::printable(name) + "\"";
  if (name.find('/') != std::string::npos ||
      ::fstatat(folder, name.c_str(), &named, AT_SYMLINK_NOFOLLOW) != 0 ||
      named.st_dev != file.st_dev || named.st_ino != file.st_ino) {
    throw Failure(ExitCode::preflight,
                  "Cannot trust the config " + shown + ": it was replaced meanwhile; try again");
  }
  if (file.st_uid != 0 && file.st_uid != user_uid) {
    const std::string owner = find_user(std::to_string(file.st_uid)).name;
    const std::string as = owner.starts_with("uid ") ? owner.substr(4) : owner;
    throw Failure(ExitCode::preflight,
                  "Cannot run the config " + shown + ": it belongs to " + owner +
                      "; to run it with that user's rights type: "
                      "vmlaunch --as " +
                      base::shell_quote(as) + " …");
  }
  const bool writable = (file.st_mode & (S_IWGRP | S_IWOTH)) != 0;
  if (file.st_uid == 0 && !writable && all_folders_safe(folder, 0)) {
    return Authority::root;
  }
  if (!writable && all_folders_safe(folder, user_uid)) {
    return Authority::user;
  }
  throw Failure(
      ExitCode::preflight,
      "Cannot trust the config " + shown + ": others can write " +
          (writable ? "it; type: chmod go-w " : "one of the folders above it; type: namei -l ") +
          base::shell_quote(path_of(folder) + "/" + name));
}

}  // namespace vmlaunch::launcher
