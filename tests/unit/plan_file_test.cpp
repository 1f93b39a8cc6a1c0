#include "launcher/guardian/plan_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "launcher/guardian/image_head.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::guardian {
namespace {

using plan::FileUse;
using tests::as_user;
using tests::kOther;
using tests::kUser;
using tests::refusal;
using Access = FileUse::Access;
using Create = FileUse::Create;

std::string me() {
  return "uid " + std::to_string(::geteuid());
}

FileUse disk(const std::string& path, Access access = Access::read_write) {
  return {"disk 0", path, access};
}

FileUse log_file(const std::string& path) {
  return {"serial log", path, Access::append, Create::empty};
}

FileUse variables(const std::string& path, const std::string& from) {
  return {"UEFI variables", path, Access::read_write, Create::from_template, from};
}

std::string open_refusal(const FileUse& file) {
  return refusal([&] { static_cast<void>(open_plan_file(file)); });
}

std::string check_refusal(const FileUse& file) {
  return refusal([&] { check_plan_file(file); });
}

mode_t mode_of(const std::string& path) {
  struct stat info {};
  base::check(::lstat(path.c_str(), &info), "look at " + path);
  return info.st_mode;
}

void own(const std::string& path, uid_t uid, mode_t mode) {
  base::check(::lchown(path.c_str(), uid, uid), "give away " + path);
  base::check(::chmod(path.c_str(), mode), "set the mode of " + path);
}

std::string folder_in(const tests::Folder& folder,
                      const std::string& name,
                      uid_t uid,
                      mode_t mode) {
  const std::string path = folder.file(name);
  std::filesystem::create_directories(path);
  own(path, uid, mode);
  return path;
}

std::string make_fifo(const std::string& path) {
  base::check(::mkfifo(path.c_str(), 0666), "make a FIFO");
  return path;
}

std::string make_socket(const std::string& path) {
  tests::make_socket(path);
  return path;
}

// ---- open_plan_file and check_plan_file: what exists

TEST_CASE("plan file: it is opened as the plan says, close-on-exec and blocking", "[guardian]") {
  const tests::Folder folder;
  struct Row {
    Access access;
    int flags;
  };
  for (const Row& row : {Row{Access::read, O_RDONLY},
                         Row{Access::read_write, O_RDWR},
                         Row{Access::append, O_WRONLY | O_APPEND}}) {
    INFO(to_string(row.access));
    const std::string path = folder.write("file", "content");
    const OpenFile open = open_plan_file({"disk 0", path, row.access});
    CHECK_FALSE(open.made);
    const int flags = ::fcntl(open.fd.get(), F_GETFL);
    CHECK((flags & (O_ACCMODE | O_APPEND | O_NONBLOCK)) == row.flags);
    CHECK(::fcntl(open.fd.get(), F_GETFD) == FD_CLOEXEC);
    CHECK(base::read_file(path) == "content");
  }
}

TEST_CASE("plan file: what cannot be a disk is refused, and nothing waits for it", "[guardian]") {
  const tests::Folder folder;
  const std::string name = folder.path();
  const std::string fifo = make_fifo(folder.file("fifo"));
  const std::string socket = make_socket(folder.file("socket"));
  const std::string link = folder.file("link");
  std::filesystem::create_symlink("nowhere", link);
  const auto cannot_open = [](const std::string& path, const std::string& why) {
    return "10: Cannot open the disk 0 " + path + " as " + me() + ": " + why;
  };
  const auto not_regular = [](const std::string& path) {
    return "10: Cannot use the disk 0 " + path +
           ": it is not a regular file or block device; type: ls -ld " + path;
  };
  const std::string correct = "; correct the path in the config, or make the file";
  const std::string missing = name + "/missing";
  const std::string below_file = folder.write("file", "") + "/below";
  struct Row {
    FileUse file;
    std::string refusal;
  };
  for (const Row& row : {
           Row{disk(name), cannot_open(name, "Is a directory; type: ls -ld " + name)},
           Row{disk(name, Access::read), not_regular(name)},
           Row{disk(fifo), not_regular(fifo)},
           Row{disk(fifo, Access::read), not_regular(fifo)},
           Row{disk(socket),
               cannot_open(socket, "No such device or address; type: ls -ld " + socket)},
           Row{disk("/dev/null"), not_regular("/dev/null")},
           Row{disk("/dev/null", Access::read), not_regular("/dev/null")},
           Row{disk(missing), cannot_open(missing, "No such file or directory" + correct)},
           Row{disk(link), cannot_open(link, "No such file or directory" + correct)},
           Row{disk(below_file), cannot_open(below_file, "Not a directory" + correct)},
       }) {
    INFO(row.file.path << ", " << to_string(row.file.access));
    CHECK(open_refusal(row.file) == row.refusal);
    CHECK(check_refusal(row.file) == row.refusal);
  }
}

TEST_CASE("plan file: a log is neither a FIFO nor a device", "[guardian]") {
  const tests::Folder folder;
  const std::string fifo = make_fifo(folder.file("fifo"));
  CHECK(open_refusal(log_file(fifo)) == "10: Cannot open the serial log " + fifo + " as " + me() +
                                            ": No such device or address; type: ls -ld " + fifo);
  CHECK(open_refusal(log_file("/dev/null")) ==
        "10: Cannot use the serial log /dev/null: it is not a regular file; type: ls -ld "
        "/dev/null");
}

TEST_CASE("plan file: a file that QEMU opens again is never a device", "[guardian]") {
  FileUse kernel{"kernel", "/dev/null"};
  kernel.reopened = true;
  CHECK(open_refusal(kernel) ==
        "10: Cannot use the kernel /dev/null: it is not a regular file; type: ls -ld /dev/null");
}

TEST_CASE("plan file: a disk past the page cache is opened so, and its header still read",
          "[guardian]") {
  const tests::Folder folder;
  FileUse file = disk(folder.write("disk", "header" + std::string(1000, 'x')));
  file.direct = true;
  const OpenFile open = open_plan_file(file);
  CHECK((::fcntl(open.fd.get(), F_GETFL) & O_DIRECT) != 0);
  CHECK(head_of(open.fd.get()) == "header" + std::string(98, 'x'));
}

TEST_CASE("plan file: a file system without O_DIRECT is told as the reason", "[guardian]") {
  FileUse file = disk("/proc/version", Access::read);
  file.direct = true;
  const std::string reason =
      "10: Cannot open the disk 0 /proc/version past the page cache, which \"cache\": \"none\" "
      "needs: its file system has no O_DIRECT; take another cache, or another place: df -T "
      "/proc/version";
  CHECK(open_refusal(file) == reason);
  CHECK(check_refusal(file) == reason);
}

TEST_CASE("plan file: want of rights is told apart, with the look that explains it", "[guardian]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  const std::string secret = folder_in(folder, "secret", 0, 0700) + "/disk";
  const std::string readable = folder.write("readable", "", 0644);
  const auto no_right = [](const std::string& path) {
    return "no right: 10: Cannot open the disk 0 " + path +
           " as uid 12345: Permission denied; type: namei -l " + path;
  };
  CHECK(as_user(kUser, [&] { return open_refusal(disk(secret)); }) == no_right(secret));
  CHECK(as_user(kUser, [&] { return check_refusal(disk(secret)); }) == no_right(secret));
  CHECK(as_user(kUser, [&] { return open_refusal(disk(readable)); }) == no_right(readable));
  CHECK(as_user(kUser, [&] { return open_refusal(disk(readable, Access::read)); }) == "nothing");
}

TEST_CASE("plan file: no name can write to the terminal or leave its quotes", "[guardian]") {
  const tests::Folder folder;
  const std::string path = folder.file("a,b \n\x1b[2J'\"");
  CHECK(open_refusal(disk(path)) == "10: Cannot open the disk 0 " + base::printable(path) + " as " +
                                        me() +
                                        ": No such file or directory; correct the path in the "
                                        "config, or make the file");
  std::filesystem::create_directory(path);
  CHECK(open_refusal(disk(path, Access::read)) ==
        "10: Cannot use the disk 0 " + base::printable(path) +
            ": it is not a regular file or block device; type: ls -ld " + base::shell_quote(path));
}

// ---- files that are made

TEST_CASE("plan file: one that is missing is made, for its owner alone", "[guardian]") {
  for (const char* odd : {"", "a,b", "new\nline", "quote\"'", "a space"}) {
    INFO(odd);
    const tests::Folder folder{std::string(odd)};
    const std::string content("v\0\xff", 3);
    const std::string from = folder.write("template", content);
    {
      const OpenFile log = open_plan_file(log_file(folder.file(std::string("log ") + odd)));
      const OpenFile vars =
          open_plan_file(variables(folder.file(std::string("vars ") + odd), from));
      CHECK(log.made);
      CHECK(vars.made);
      CHECK(base::read_all(vars.fd.get(), 100, "vars") == content);
    }
    const std::string log = folder.file(std::string("log ") + odd);
    const std::string vars = folder.file(std::string("vars ") + odd);
    CHECK(base::read_file(log).empty());
    CHECK(mode_of(log) == (S_IFREG | 0600));
    CHECK(mode_of(vars) == (S_IFREG | 0600));
    CHECK(folder.names() == std::vector<std::string>{
                                std::string("log ") + odd, "template", std::string("vars ") + odd});
  }
}

TEST_CASE("plan file: one that exists is left as it is", "[guardian]") {
  const tests::Folder folder;
  const std::string from = folder.write("template", "new");
  const std::string vars = folder.write("vars", "old", 0640);
  const std::string log = folder.write("log", "first\n", 0644);
  CHECK_FALSE(open_plan_file(variables(vars, from)).made);
  const OpenFile open = open_plan_file(log_file(log));
  CHECK_FALSE(open.made);
  base::write_all(open.fd.get(), "second\n", "the log");
  CHECK(base::read_file(vars) == "old");
  CHECK(base::read_file(log) == "first\nsecond\n");
  CHECK(mode_of(vars) == (S_IFREG | 0640));
  CHECK(folder.names() == std::vector<std::string>{"log", "template", "vars"});
}

TEST_CASE("plan file: one that exists needs no template", "[guardian]") {
  const tests::Folder folder;
  const std::string vars = folder.write("vars", "old");
  CHECK(open_refusal(variables(vars, folder.file("missing"))) == "nothing");
  CHECK(check_refusal(variables(vars, folder.file("missing"))) == "nothing");
}

TEST_CASE("plan file: nothing is made through a dangling link", "[guardian]") {
  const tests::Folder folder;
  const std::string link = folder.file("link");
  std::filesystem::create_symlink("target", link);
  const std::string expected = "10: Cannot open the serial log " + link + " as " + me() +
                               ": No such file or directory; correct the path in the config, or "
                               "make the file";
  CHECK(open_refusal(log_file(link)) == expected);
  CHECK(check_refusal(log_file(link)) == expected);
  CHECK(folder.names() == std::vector<std::string>{"link"});
}

TEST_CASE("plan file: without its template nothing is made, and the template is named",
          "[guardian]") {
  const tests::Folder folder;
  const std::string from = folder.file("missing");
  const FileUse file = variables(folder.file("vars"), from);
  const std::string expected = "10: Cannot open the UEFI variables' template " + from + " as " +
                               me() +
                               ": No such file or directory; correct the path in the config, or "
                               "make the file";
  CHECK(open_refusal(file) == expected);
  CHECK(check_refusal(file) == expected);
  CHECK(folder.names().empty());
}

TEST_CASE("plan file: a template that is no file is refused at once", "[guardian]") {
  const tests::Folder folder;
  const std::string fifo = make_fifo(folder.file("fifo"));
  const std::string expected = "10: Cannot use the UEFI variables' template " + fifo +
                               ": it is not a regular file or block device; type: ls -ld " + fifo;
  CHECK(open_refusal(variables(folder.file("vars"), fifo)) == expected);
  CHECK(check_refusal(variables(folder.file("vars"), fifo)) == expected);
}

TEST_CASE("plan file: a template too large for one leaves nothing behind", "[guardian]") {
  const tests::Folder folder;
  const std::string from = folder.write("template", "");
  std::filesystem::resize_file(from, (std::uintmax_t{64} << 20U) + 1);
  CHECK_THROWS(open_plan_file(variables(folder.file("vars"), from)));
  CHECK(folder.names() == std::vector<std::string>{"template"});
}

TEST_CASE("plan file: checking makes nothing", "[guardian]") {
  const tests::Folder folder;
  const std::string from = folder.write("template", "t");
  check_plan_file(log_file(folder.file("log")));
  check_plan_file(variables(folder.file("vars"), from));
  CHECK(folder.names() == std::vector<std::string>{"template"});
}

TEST_CASE("plan file: a folder that is missing or closed is told before anything is made",
          "[guardian]") {
  const tests::Folder folder;
  const std::string nowhere = folder.file("nowhere/log");
  const std::string missing = "10: Cannot open the serial log " + nowhere + " as " + me() +
                              ": No such file or directory; correct the path in the config, or "
                              "make its folder: mkdir -p " +
                              folder.file("nowhere");
  CHECK(open_refusal(log_file(nowhere)) == missing);
  CHECK(check_refusal(log_file(nowhere)) == missing);
  if (tests::skipped_without_root()) {
    return;
  }
  const std::string log = folder.file("log");
  const std::string closed = "no right: 10: Cannot open the serial log " + log +
                             " as uid 12345: Permission denied; type: namei -l " + log;
  CHECK(as_user(kUser, [&] { return open_refusal(log_file(log)); }) == closed);
  CHECK(as_user(kUser, [&] { return check_refusal(log_file(log)); }) == closed);
  CHECK(folder.names().empty());
}

TEST_CASE("plan file: of a run's files those that it made are taken back", "[guardian]") {
  const tests::Folder folder;
  const std::string from = folder.write("template", "t");
  plan::Plan plan;
  plan.files = {log_file(folder.write("old", "kept")),
                log_file(folder.file("new,\n")),
                variables(folder.file("vars"), from),
                disk(folder.file("never opened"))};
  std::vector<OpenFile> files;
  for (std::size_t i = 0; i < 3; ++i) {
    files.push_back(open_plan_file(plan.files[i]));
  }
  files.emplace_back();
  std::filesystem::remove(folder.file("vars"));
  remove_made_files(plan, files);
  CHECK(folder.names() == std::vector<std::string>{"old", "template"});
  CHECK(base::read_file(folder.file("old")) == "kept");
}

// ---- open_program

TEST_CASE("program: an executable file is opened to be run and nothing else", "[guardian]") {
  const tests::Folder folder;
  const base::UniqueFd program = open_program(folder.write("program", "x", 0711));
  CHECK((::fcntl(program.get(), F_GETFL) & O_PATH) == O_PATH);
  CHECK(::fcntl(program.get(), F_GETFD) == FD_CLOEXEC);
}

TEST_CASE("program: what cannot be run is refused", "[guardian]") {
  const tests::Folder folder;
  const auto program_refusal = [](const std::string& path) {
    return refusal([&] { static_cast<void>(open_program(path)); });
  };
  const auto not_executable = [](const std::string& path) {
    return "10: Cannot run " + path + ": it is not an executable file; type: ls -ld " + path;
  };
  const std::string plain = folder.write("plain", "", 0644);
  CHECK(program_refusal(plain) == not_executable(plain));
  CHECK(program_refusal(folder.path()) == not_executable(folder.path()));
  CHECK(program_refusal("/dev/null") == not_executable("/dev/null"));
  const std::string missing = folder.file("missing");
  CHECK(program_refusal(missing) == "10: Cannot find the program " + missing +
                                        "; type: apt install qemu-system-x86, or correct "
                                        "qemu.binary in the config");
  const std::string below = plain + "/qemu";
  CHECK(program_refusal(below) == "10: Cannot open the program " + below + " as " + me() +
                                      ": Not a directory; correct the path in the config, or make "
                                      "the file");
  if (tests::skipped_without_root()) {
    return;
  }
  const std::string closed = folder_in(folder, "closed", 0, 0700) + "/qemu";
  CHECK(as_user(kUser, [&] { return program_refusal(closed); }) ==
        "no right: 10: Cannot open the program " + closed +
            " as uid 12345: Permission denied; type: namei -l " + closed);
}

// ---- require_roots_own_path

/// "to PATH below the folder", or the folder that somebody else can change.
std::string roots_path(const tests::Folder& folder, const std::string& name) {
  const std::string base = std::filesystem::canonical(folder.path());
  std::string real;
  const std::string refused = refusal([&] { real = require_roots_own_path(folder.file(name)); });
  if (refused != "nothing") {
    const std::string start =
        "10: Cannot open " + folder.file(name) + " as root: others than root can change " + base;
    const std::string end = "; type: namei -l " + folder.file(name);
    return refused.starts_with(start) && refused.ends_with(end)
               ? "changeable: ." +
                     refused.substr(start.size(), refused.size() - start.size() - end.size())
               : refused;
  }
  return real.starts_with(base + "/") ? "." + real.substr(base.size()) : real;
}

TEST_CASE("root's path: folders that only root writes lead where they say", "[guardian]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  folder_in(folder, "a", 0, 0755);
  folder_in(folder, "a/b", 0, 0700);
  folder.write("a/b/file", "");
  own(folder.write("a/users", ""), kUser, 0666);
  CHECK(roots_path(folder, "a/b/file") == "./a/b/file");
  CHECK(roots_path(folder, "a/b/missing") == "./a/b/missing");
  CHECK(roots_path(folder, "a/users") == "./a/users");
}

TEST_CASE("root's path: anybody else's folder on the way is refused", "[guardian]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  struct Row {
    const char* name;
    uid_t uid;
    mode_t mode;
  };
  for (const Row& row : {Row{"users", kUser, 0755},
                         Row{"users, closed", kUser, 0700},
                         Row{"users, sticky", kUser, 01777},
                         Row{"a group's", 0, 0775},
                         Row{"everybody's", 0, 0777}}) {
    INFO(row.name);
    const std::string name = row.name;
    folder_in(folder, name, row.uid, row.mode);
    folder_in(folder, name + "/below", 0, 0755);
    folder.write(name + "/below/file", "");
    const auto refused = [&](const std::string& path) {
      return refusal([&] { static_cast<void>(require_roots_own_path(path)); });
    };
    for (const std::string& below : {name + "/file", name + "/below", name + "/below/file"}) {
      INFO(below);
      CHECK(refused(folder.file(below)) ==
            "10: Cannot open " + folder.file(below) + " as root: others than root can change " +
                folder.file(name) + "; type: namei -l " + base::shell_quote(folder.file(below)));
    }
  }
}

TEST_CASE("root's path: in root's sticky folder root's own names are safe", "[guardian]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  folder_in(folder, "tmp", 0, 01777);
  folder.write("tmp/roots", "");
  own(folder.write("tmp/users", ""), kUser, 0644);
  folder_in(folder, "tmp/dir", 0, 0755);
  folder_in(folder, "tmp/theirs", kUser, 0755);
  CHECK(roots_path(folder, "tmp/roots") == "./tmp/roots");
  CHECK(roots_path(folder, "tmp/dir/missing") == "./tmp/dir/missing");
  CHECK(roots_path(folder, "tmp/users") == "changeable: ./tmp");
  CHECK(roots_path(folder, "tmp/missing") == "changeable: ./tmp");
  CHECK(roots_path(folder, "tmp/theirs/file") == "changeable: ./tmp");
}

TEST_CASE("root's path: a link counts by where it stands and where it leads", "[guardian]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  folder_in(folder, "roots", 0, 0755);
  folder_in(folder, "users", kUser, 0755);
  folder.write("roots/file", "");
  folder.write("users/file", "");
  const auto link = [&](const std::string& target, const std::string& name) {
    std::filesystem::create_symlink(target, folder.file(name));
  };
  link("../roots", "users/to_roots");
  link("file", "roots/to_file");
  link("../users", "roots/to_users");
  link("../users/file", "roots/to_users_file");
  link("missing", "roots/dangling");
  link("../users/missing", "roots/dangling_in_users");
  link(folder.file("roots"), "roots/absolute");
  link("loop", "roots/loop");
  CHECK(roots_path(folder, "roots/to_file") == "./roots/file");
  CHECK(roots_path(folder, "roots/absolute/file") == "./roots/file");
  CHECK(roots_path(folder, "roots/../roots/./file") == "./roots/file");
  CHECK(roots_path(folder, "users/to_roots/file") == "changeable: ./users");
  CHECK(roots_path(folder, "roots/to_users/file") == "changeable: ./users");
  CHECK(roots_path(folder, "roots/to_users_file") == "changeable: ./users");
  CHECK(roots_path(folder, "roots/dangling") == "./roots/missing");
  CHECK(roots_path(folder, "roots/dangling_in_users") == "changeable: ./users");
  const std::string loop = folder.file("roots/loop");
  CHECK(roots_path(folder, "roots/loop") == "10: Cannot open the file " + loop +
                                                " as uid 0: Too many levels of symbolic links; "
                                                "type: ls -ld " +
                                                loop);
}

TEST_CASE("root's path: who may only add names cannot steer a path by a link", "[guardian]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  folder_in(folder, "roots", 0, 0755);
  folder.write("roots/file", "");
  folder_in(folder, "tmp", 0, 01777);
  const std::string theirs = folder.file("tmp/link");
  std::filesystem::create_symlink(folder.file("roots"), theirs);
  base::check(::lchown(theirs.c_str(), kOther, kOther), "give away the link");
  CHECK(roots_path(folder, "tmp/link/file") == "changeable: ./tmp");
}

TEST_CASE("root's path: the root folder itself is root's", "[guardian]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(require_roots_own_path("/") == "/");
  CHECK(require_roots_own_path("/..") == "/");
}

}  // namespace
}  // namespace vmlaunch::launcher::guardian
