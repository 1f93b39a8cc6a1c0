#include "launcher/identity.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher {
namespace {

using tests::as_user;
using tests::in_child;
using tests::kOther;
using tests::kUser;
using tests::refusal;

constexpr uid_t kNobody = 65534;  // has a name on every system

void own(const std::string& path, uid_t uid, mode_t mode) {
  base::check(::lchown(path.c_str(), uid, uid), "give away " + path);
  base::check(::chmod(path.c_str(), mode), "set the mode of " + path);
}

/// "root" or "user", or what was refused.
std::string authority(const std::string& folder,
                      const std::string& name,
                      uid_t user = kUser,
                      const std::string& opened_as = "") {
  std::string text;
  const std::string refused = refusal([&] {
    const base::UniqueFd folder_fd = base::open_file(folder, O_PATH | O_DIRECTORY);
    const base::UniqueFd file =
        base::open_file(opened_as.empty() ? folder + "/" + name : opened_as, O_RDONLY);
    text = to_string(derive_authority(file.get(), folder_fd.get(), name, user));
  });
  if (refused == "nothing") {
    return text;
  }
  // Each test has a folder of its own.
  const std::string path = base::shell_quote(folder + "/" + name);
  const std::size_t at = refused.find(path);
  return at == std::string::npos
             ? refused
             : refused.substr(0, at) + "CONFIG" + refused.substr(at + path.size());
}

std::string distrust(const std::string& why) {
  return "10: Cannot trust the config \"vm.json\": " + why;
}

const std::string kWritable = distrust("others can write it; type: chmod go-w CONFIG");
const std::string kFolders =
    distrust("others can write one of the folders above it; type: namei -l CONFIG");

std::string belongs_to(const std::string& owner, const std::string& as) {
  return "10: Cannot run the config \"vm.json\": it belongs to " + owner +
         "; to run it with that user's rights type: vmlaunch --as " + as + " …";
}

TEST_CASE("authority: the folder's owner and mode limit what the file's owner gives",
          "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  struct Row {
    const char* name;
    uid_t uid;
    mode_t mode;
    std::string of_roots_file;
    std::string of_users_file;
  };
  for (const Row& row : {
           Row{"root's", 0, 0755, "root", "user"},
           Row{"root's, closed", 0, 0700, "root", "user"},
           Row{"root's, group-writable", 0, 0775, kFolders, kFolders},
           Row{"root's, for everybody", 0, 0777, kFolders, kFolders},
           Row{"root's, others only", 0, 0757, kFolders, kFolders},
           Row{"root's, sticky", 0, 01777, "root", "user"},
           Row{"root's, sticky for a group", 0, 01775, "root", "user"},
           Row{"the user's", kUser, 0755, "user", "user"},
           Row{"the user's, closed", kUser, 0700, "user", "user"},
           Row{"the user's, group-writable", kUser, 0775, kFolders, kFolders},
           Row{"the user's, sticky", kUser, 01777, kFolders, kFolders},
           Row{"another's", kOther, 0755, kFolders, kFolders},
           Row{"another's, sticky", kOther, 01777, kFolders, kFolders},
       }) {
    INFO(row.name);
    const tests::Folder folder;
    const std::string path = folder.write("vm.json", "{}", 0644);
    own(folder.path(), row.uid, row.mode);
    CHECK(authority(folder.path(), "vm.json") == row.of_roots_file);
    own(path, kUser, 0644);
    CHECK(authority(folder.path(), "vm.json") == row.of_users_file);
  }
}

TEST_CASE("authority: every folder up to the root counts", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  struct Row {
    const char* name;
    uid_t uid;
    mode_t mode;
    std::string of_roots_file;
  };
  for (const Row& row : {Row{"root's", 0, 0755, "root"},
                         Row{"root's, sticky", 0, 01777, "root"},
                         Row{"root's, for everybody", 0, 0777, kFolders},
                         Row{"the user's", kUser, 0755, "user"},
                         Row{"another's", kOther, 0755, kFolders}}) {
    INFO(row.name);
    const tests::Folder folder;
    std::filesystem::create_directories(folder.file("a/b/c"));
    folder.write("a/b/c/vm.json", "{}");
    own(folder.file("a"), row.uid, row.mode);
    CHECK(authority(folder.file("a/b/c"), "vm.json") == row.of_roots_file);
  }
}

TEST_CASE("authority: a file that others can write is nobody's word", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  for (const mode_t mode : {0664U, 0646U, 0666U, 0620U, 0602U}) {
    for (const uid_t owner : {uid_t{0}, kUser}) {
      INFO("mode " << mode << ", owner " << owner);
      const tests::Folder folder;
      own(folder.write("vm.json", "{}"), owner, mode);
      CHECK(authority(folder.path(), "vm.json") == kWritable);
    }
  }
}

TEST_CASE("authority: a file's other modes do not matter", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  for (const mode_t mode : {0400U, 0444U, 0600U, 0755U, 04755U}) {
    INFO("mode " << mode);
    const tests::Folder folder;
    const std::string path = folder.write("vm.json", "{}");
    own(path, 0, mode);
    CHECK(authority(folder.path(), "vm.json") == "root");
    own(path, kUser, mode);
    CHECK(authority(folder.path(), "vm.json") == "user");
  }
}

TEST_CASE("authority: another user's file is refused with the command that runs it", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  const std::string path = folder.write("vm.json", "{}");
  own(path, kOther, 0644);
  CHECK(authority(folder.path(), "vm.json") == belongs_to("uid 12346", "12346"));
  own(path, kNobody, 0644);
  const std::string nobody = find_user("65534").name;
  CHECK(authority(folder.path(), "vm.json") == belongs_to(nobody, nobody));
  // Whatever is wrong besides, the owner comes first.
  own(path, kOther, 0666);
  CHECK(authority(folder.path(), "vm.json") == belongs_to("uid 12346", "12346"));
}

TEST_CASE("authority: a run for nobody takes root's files only", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  constexpr uid_t kUnused = 1880004711;
  const tests::Folder folder;
  const std::string path = folder.write("vm.json", "{}");
  CHECK(authority(folder.path(), "vm.json", kUnused) == "root");
  own(path, kUser, 0644);
  CHECK(authority(folder.path(), "vm.json", kUnused) == belongs_to("uid 12345", "12345"));
  own(path, 0, 0644);
  own(folder.path(), kUser, 0755);
  CHECK(authority(folder.path(), "vm.json", kUnused) == kFolders);
}

TEST_CASE("authority: a name that means another file by now is refused", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const std::string replaced = distrust("it was replaced meanwhile; try again");
  const tests::Folder folder;
  const std::string path = folder.write("vm.json", "{}");
  const std::string copy = folder.write("copy", "{}");
  CHECK(authority(folder.path(), "vm.json", kUser, copy) == replaced);
  std::filesystem::rename(path, folder.file("moved"));
  CHECK(authority(folder.path(), "vm.json", kUser, folder.file("moved")) == replaced);
  std::filesystem::create_symlink("moved", path);
  CHECK(authority(folder.path(), "vm.json", kUser, folder.file("moved")) == replaced);
  std::filesystem::remove(path);
  std::filesystem::create_hard_link(folder.file("moved"), path);
  CHECK(authority(folder.path(), "vm.json", kUser, folder.file("moved")) == "root");
}

TEST_CASE("authority: a name leads no further than its folder", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  std::filesystem::create_directories(folder.file("users"));
  const std::string path = folder.write("users/vm.json", "{}");
  own(folder.file("users"), kUser, 0755);
  for (const std::string& name : {std::string("users/vm.json"), path, std::string("")}) {
    INFO(name);
    CHECK(authority(folder.path(), name, kUser, path) ==
          "10: Cannot trust the config \"" + name + "\": it was replaced meanwhile; try again");
  }
}

TEST_CASE("authority: an odd name is shown so that it cannot write to the terminal", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  own(folder.write("a\x1b[2J\n.json", "{}"), 0, 0666);
  CHECK(authority(folder.path(), "a\x1b[2J\n.json") ==
        "10: Cannot trust the config \"a\\x1b[2J\\x0a.json\": others can write it; type: chmod "
        "go-w CONFIG");
}

// ---- find_user and find_identity

/// "name uid:gid" and how many groups there are.
std::string text_of(const User& user) {
  return user.name + " " + std::to_string(user.credentials.uid) + ":" +
         std::to_string(user.credentials.gid) + ", " +
         std::to_string(user.credentials.groups.size()) + " groups";
}

std::string user_text(const std::string& name_or_uid) {
  std::string text;
  const std::string refused = refusal([&] { text = text_of(find_user(name_or_uid)); });
  return refused == "nothing" ? text : refused;
}

std::string identity_text(const std::optional<std::string>& as) {
  std::string text;
  const std::string refused = refusal([&] {
    const Identity identity = find_identity(as);
    text = std::string(identity.privileged ? "privileged, " : "plain, ") +
           (identity.invoker ? "for " : "for nobody: ") + text_of(identity.user);
  });
  return refused == "nothing" ? text : refused;
}

/// In a process with this SUDO_UID.
std::string identity_under_sudo(const char* sudo_uid, const std::optional<std::string>& as) {
  return in_child([&] {
    base::check(sudo_uid != nullptr ? ::setenv("SUDO_UID", sudo_uid, 1) : ::unsetenv("SUDO_UID"),
                "set SUDO_UID");
    return identity_text(as);
  });
}

TEST_CASE("user: one is found by name and by number", "[identity]") {
  CHECK(user_text("root").starts_with("root 0:0, "));
  CHECK(user_text("root") == user_text("0"));
  CHECK(find_user("65534").credentials.uid == kNobody);
  CHECK(text_of(find_user(find_user("65534").name)) == text_of(find_user("65534")));
}

TEST_CASE("user: a number without a name is a user with a group of the same number", "[identity]") {
  CHECK(user_text("12345") == "uid 12345 12345:12345, 0 groups");
  CHECK(user_text("4294967294") == "uid 4294967294 4294967294:4294967294, 0 groups");
}

TEST_CASE("user: who does not exist is named, and so is where to look", "[identity]") {
  for (const char* name : {"no-such-user", "", "-1", "+0", " 0", "0x0", "12345678901234567890"}) {
    INFO("\"" << name << "\"");
    CHECK(user_text(name) ==
          std::string("10: Cannot find the user \"") + name + "\"; see: getent passwd");
  }
  CHECK(user_text("a\nb") == "10: Cannot find the user \"a\\x0ab\"; see: getent passwd");
}

TEST_CASE("user: the number that means no change to the kernel is nobody", "[identity]") {
  CHECK(user_text("4294967295") == "10: Cannot find the user \"4294967295\"; see: getent passwd");
}

TEST_CASE("identity: a plain start is for who starts it", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const auto plain = [](const std::optional<std::string>& as) {
    return as_user(kUser, [&] {
      base::check(::setenv("SUDO_UID", "12346", 1), "set SUDO_UID");
      return identity_text(as);
    });
  };
  CHECK(plain(std::nullopt) == "plain, for uid 12345 12345:12345, 0 groups");
  CHECK(plain("root") == "2: Cannot become root: --as needs root; type: sudo vmlaunch --as root …");
  CHECK(plain("12345") ==
        "2: Cannot become 12345: --as needs root; type: sudo vmlaunch --as 12345 …");
  CHECK(plain("a b\n") ==
        "2: Cannot become a b\\x0a: --as needs root; type: sudo vmlaunch --as 'a b'$'\\012''' …");
}

TEST_CASE("identity: a plain start keeps the groups that the process has", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          const std::vector<gid_t> groups = {7, 8};
          base::check(::setgroups(groups.size(), groups.data()), "set the groups");
          base::check(::setresgid(9, 9, 9), "change the gid");
          base::check(::setresuid(kUser, kUser, kUser), "change the uid");
          const sandbox::Credentials found = find_identity({}).user.credentials;
          return std::string(found == sandbox::Credentials{kUser, 9, {7, 8}} ? "same" : "other");
        }) == "same");
}

TEST_CASE("identity: root's run is for --as, else for sudo's user, else for nobody", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const std::string nobody = user_text("65534");
  const std::string user = "privileged, for uid 12345 12345:12345, 0 groups";
  struct Row {
    const char* name;
    const char* sudo_uid;
    std::optional<std::string> as;
    std::string identity;
  };
  for (const Row& row : {
           Row{"sudo", "12345", {}, user},
           Row{"sudo by somebody with a name", "65534", {}, "privileged, for " + nobody},
           Row{"--as a number", nullptr, "12345", user},
           Row{"--as a name", nullptr, find_user("65534").name, "privileged, for " + nobody},
           Row{"--as beats sudo", "12346", "12345", user},
           Row{"--as beats a broken sudo", "x", "12345", user},
           Row{"--as nobody known",
               nullptr,
               "no-such-user",
               "10: Cannot find the user \"no-such-user\"; see: getent passwd"},
           Row{"--as nothing", "12345", "", "10: Cannot find the user \"\"; see: getent passwd"},
           Row{"--as root",
               "12345",
               "root",
               "2: Cannot run the supervisor as root: --as takes any other user, or leave it out"},
           Row{"--as 0",
               nullptr,
               "0",
               "2: Cannot run the supervisor as root: --as takes any other user, or leave it out"},
       }) {
    INFO(row.name);
    CHECK(identity_under_sudo(row.sudo_uid, row.as) == row.identity);
  }
}

TEST_CASE("identity: a SUDO_UID that is no number is refused", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  for (const char* sudo_uid : {"", "root", "-1", "1000 ", "1000x", "99999999999"}) {
    INFO("\"" << sudo_uid << "\"");
    CHECK(identity_under_sudo(sudo_uid, {}) ==
          std::string("2: Cannot tell who the user is: SUDO_UID is \"") + sudo_uid +
              "\"; use --as USER");
  }
}

TEST_CASE("identity: without a person root's run has a uid that nobody has", "[identity]") {
  if (tests::skipped_without_root()) {
    return;
  }
  for (const char* sudo_uid : {static_cast<const char*>(nullptr), "0"}) {
    INFO((sudo_uid == nullptr ? "no SUDO_UID" : sudo_uid));
    CHECK(in_child([&] {
            base::check(
                sudo_uid != nullptr ? ::setenv("SUDO_UID", sudo_uid, 1) : ::unsetenv("SUDO_UID"),
                "set SUDO_UID");
            const auto pid = static_cast<uid_t>(::getpid());
            const std::string own = std::to_string(1880000000 + pid);
            const std::string expected =
                "privileged, for nobody: uid " + own + " " + own + ":" + own + ", 0 groups";
            return identity_text({}) == expected ? std::string("as expected") : identity_text({});
          }) == "as expected");
  }
}

TEST_CASE("identity: QEMU's own uid is neither a person's nor the supervisor's", "[identity]") {
  const auto pid = static_cast<uid_t>(::getpid());
  const User user = unused_qemu_user();
  const uid_t uid = 1890000000 + pid;
  CHECK(user.name == "uid " + std::to_string(uid));
  CHECK(user.credentials == sandbox::Credentials{uid, uid, {}});
}

}  // namespace
}  // namespace vmlaunch::launcher
