#include "sandbox/private_root.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "sandbox/private_dev.hpp"
#include "sandbox/spawn.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::sandbox {
namespace {

using tests::kUser;

constexpr std::chrono::seconds kLimit{20};
constexpr std::size_t kMostOutput = std::size_t{1} << 20U;

Credentials user() {
  return ::geteuid() == 0 ? Credentials{kUser, kUser, {}} : Credentials{::getuid(), ::getgid(), {}};
}

/// What a shell needs, and no more.
RootSpec shells_root() {
  RootSpec root;
  root.shared = {"/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache"};
  return root;
}

/// A program in that root: "/bin/sh" and its arguments, and as root's child with a /dev.
base::Child start_in(RootSpec root,
                     const std::vector<std::string>& command,
                     const std::vector<PassedFd>& fds) {
  std::optional<PrivateDev> dev;
  if (::geteuid() == 0) {
    dev.emplace(user());
    root.dev = dev->tree();
  }
  const base::UniqueFd program = base::open_file(command.front(), O_PATH);
  ChildSpec spec{program.get(), command, {"PATH=/usr/bin:/bin"}, fds, user()};
  spec.root = std::move(root);
  return spawn(spec).child;
}

/// What a shell in that root says.
std::string shell_in(RootSpec root, const std::string& script) {
  base::Pipe output = base::make_pipe();
  const base::Child child =
      start_in(std::move(root),
               {"/bin/sh", "-c", script},
               {{output.write_end.get(), STDOUT_FILENO}, {output.write_end.get(), STDERR_FILENO}});
  output.write_end.reset();
  const std::string text = base::read_all(output.read_end.get(), kMostOutput, "the output");
  static_cast<void>(base::reap_within(child.pidfd.get(), kLimit));
  return text;
}

/// As root, and as a user, for whom it takes a user namespace.
void for_each_caller(const std::function<std::string()>& action, const std::string& expected) {
  CHECK(tests::in_child(action) == expected);
  if (::geteuid() == 0) {
    CHECK(tests::as_user(kUser, action) == expected);
  }
}

TEST_CASE("private root: a child sees what is shared, and nothing else", "[sandbox]") {
  for_each_caller(
      [] {
        return shell_in(shells_root(),
                        "echo /* /etc/* /dev/*; cat /etc/passwd /proc/self/status; "
                        "cd /usr/bin && test -x sh && echo usr");
      },
      "/bin /dev /empty /etc /lib" +
          std::string(std::filesystem::exists("/lib32") ? " /lib32" : "") +
          (std::filesystem::exists("/lib64") ? " /lib64" : "") +
          (std::filesystem::exists("/libx32") ? " /libx32" : "") +
          " /usr /etc/ld.so.cache /dev/full /dev/null /dev/random /dev/urandom /dev/zero\n"
          "cat: /etc/passwd: No such file or directory\n"
          "cat: /proc/self/status: No such file or directory\nusr\n");
}

TEST_CASE("private root: nothing in it can be written but the nodes", "[sandbox]") {
  for_each_caller(
      [] {
        return shell_in(shells_root(),
                        "for place in / /etc /usr /usr/bin /dev /empty; do "
                        "touch $place/x 2>/dev/null && echo $place; done; "
                        "echo x > /etc/ld.so.cache; echo x > /dev/null && echo null");
      },
      "/bin/sh: 1: cannot create /etc/ld.so.cache: Read-only file system\nnull\n");
}

TEST_CASE("private root: a file is found under its name, whatever it is called outside",
          "[sandbox]") {
  const tests::Folder folder;
  base::check(::chmod(folder.path().c_str(), 0755), "open the folder");
  const std::string path = folder.write("a file, \"of\" mine", "its text\n", 0644);
  for_each_caller(
      [&] {
        const base::UniqueFd file = base::open_file(path, O_RDONLY);
        RootSpec root = shells_root();
        root.files = {{file.get(), "/vm/10"}};
        return shell_in(root, "echo /vm/*; cat /vm/10; echo x > /vm/10");
      },
      "/vm/10\nits text\n/bin/sh: 1: cannot create /vm/10: Read-only file system\n");
}

TEST_CASE("private root: root's child is given a file that its name leads to no more",
          "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  const std::string path = folder.write("kernel", "the first\n", 0644);
  const base::UniqueFd file = base::open_file(path, O_RDONLY);
  std::filesystem::rename(path, folder.file("old"));
  folder.write("kernel", "the second\n", 0644);
  RootSpec root = shells_root();
  root.files = {{file.get(), "/vm/10"}};
  CHECK(shell_in(root, "cat /vm/10") == "the first\n");
}

TEST_CASE("private root: what is shared is what the child's own rights lead to", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder = tests::shared_folder();  // root's
  std::filesystem::create_directory(folder.file("inner"));
  const std::string text = folder.write("inner/text", "text\n", 0644);
  RootSpec root = shells_root();
  root.shared.push_back(folder.file("inner"));
  root.shared.emplace_back("/nonexistent/folder");
  const std::string script = "cat " + text + " 2>/dev/null || echo none";
  base::check(::chmod(folder.path().c_str(), 0755), "open the folder");
  CHECK(shell_in(root, script) == "text\n");
  base::check(::chmod(folder.path().c_str(), 0700), "close the folder");
  CHECK(shell_in(root, script) == "none\n");
  base::check(::chmod(folder.path().c_str(), 0750), "open it to root's group");
  CHECK(shell_in(root, script) == "none\n");
}

TEST_CASE("private root: a hidden folder is empty, what is beside it is not", "[sandbox]") {
  for_each_caller(
      [] {
        RootSpec root = shells_root();
        root.hidden = {"/usr/share", "/usr/missing"};
        return shell_in(root,
                        "cd /usr/share && echo * && touch x; test -x /usr/bin/env && echo there; "
                        "test -e /usr/missing || echo missing");
      },
      "*\ntouch: cannot touch 'x': Read-only file system\nthere\nmissing\n");
}

TEST_CASE("private root: as root QEMU's nodes are those that were added, as its own", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  for (const bool whole_host : {false, true}) {
    INFO(whole_host);
    PrivateDev dev(user());  // it goes with the child that had it
    dev.add("tty");
    base::Pipe output = base::make_pipe();
    const base::UniqueFd program = base::open_file("/bin/sh", O_PATH);
    ChildSpec spec{program.get(),
                   {"sh", "-c", "cd /dev && stat -c '%n %a %u %t:%T' * && echo x > null"},
                   {"PATH=/usr/bin:/bin"},
                   {{output.write_end.get(), STDOUT_FILENO}},
                   user()};
    if (whole_host) {
      spec.dev = dev.tree();
    } else {
      spec.root = shells_root();
      spec.root->dev = dev.tree();
    }
    const base::Child child = spawn(spec).child;
    output.write_end.reset();
    CHECK(base::read_all(output.read_end.get(), kMostOutput, "the output") ==
          "full 666 0 1:7\nnull 666 0 1:3\nrandom 666 0 1:8\ntty 600 12345 5:0\n"
          "urandom 666 0 1:9\nzero 666 0 1:5\n");
    CHECK(base::reap_within(child.pidfd.get(), kLimit) == base::ExitStatus{});
  }
}

TEST_CASE("private root: no link leads out of it while it is made", "[sandbox]") {
  const tests::Folder folder = tests::shared_folder();
  base::check(::chmod(folder.path().c_str(), 0755), "open the folder");
  for (const char* name : {"host", "shared", "other"}) {
    std::filesystem::create_directory(folder.file(name));
    base::check(::chmod(folder.file(name).c_str(), 0777), "open the folder");
  }
  folder.write("other/file", "x", 0644);
  // What is below "shared" is there when it is looked for, and in its place a link leads out.
  std::filesystem::create_symlink(folder.file("host"), folder.file("shared/absolute"));
  std::filesystem::create_symlink("../../../../../../.." + folder.file("host"),
                                  folder.file("shared/relative"));
  std::filesystem::create_symlink(folder.file("other/file"), folder.file("host/file"));
  for_each_caller(
      [&] {
        RootSpec root = shells_root();
        root.shared.push_back(folder.file("shared"));
        root.shared.push_back(folder.file("shared/absolute/file"));
        root.shared.push_back(folder.file("shared/relative/file"));
        const base::UniqueFd file = base::open_file(folder.file("other/file"), O_RDONLY);
        root.files = {{file.get(), folder.file("shared/absolute/new/file")}};
        std::string found;
        try {
          static_cast<void>(shell_in(root, "true"));
        } catch (const ChildSetupError& error) {
          found = error.stage() == Stage::root ? "" : error.what();
        }
        for (const auto& entry : std::filesystem::directory_iterator(folder.file("host"))) {
          found += entry.path().filename().string() + " ";
        }
        return found;
      },
      "file ");
}

TEST_CASE("private root: what cannot be shared is named", "[sandbox]") {
  const tests::Folder folder = tests::shared_folder();
  base::check(::chmod(folder.path().c_str(), 0755), "open the folder");
  std::filesystem::create_symlink("loop", folder.file("loop"));
  RootSpec root = shells_root();
  root.shared.push_back(folder.file("loop"));
  CHECK_THROWS_WITH(
      shell_in(root, "true"),
      "Cannot share " + folder.file("loop") + " with QEMU: Too many levels of symbolic links");
}

TEST_CASE("private root: a node that the host has not is none of a child's", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  PrivateDev dev(user());
  CHECK_THROWS_WITH(dev.add("vfio/none"), "Cannot find /dev/vfio/none: No such file or directory");
  CHECK_THROWS_WITH(dev.add("fd"), "Cannot use /dev/fd as a device: No such device");
}

TEST_CASE("private root: a user's child has the nodes of the host that it asks for", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(tests::as_user(kUser, [] {
          RootSpec root = shells_root();
          root.nodes = {"tty", "none", "pts"};
          return shell_in(
              root, "cd /dev && echo * && stat -c '%t:%T' tty && test -e pts/ptmx && echo there");
        }) == "full null pts random tty urandom zero\n5:0\nthere\n");
}

/// Namespaces of a process, without their numbers: "ipc mnt …", those that are not ours.
std::string other_namespaces(pid_t pid) {
  std::vector<std::string> others;
  for (const char* name : {"ipc", "mnt", "net", "pid", "user", "uts"}) {
    const std::string path = std::string("/ns/") + name;
    if (std::filesystem::read_symlink("/proc/" + std::to_string(pid) + path) !=
        std::filesystem::read_symlink("/proc/self" + path)) {
      others.emplace_back(name);
    }
  }
  return base::join(others, " ");
}

/// Of a child that lives for it.
std::string namespaces_of_child(bool network) {
  RootSpec root = shells_root();
  root.network = network;
  base::Pipe input = base::make_pipe();
  const base::Child child = start_in(root, {"/bin/cat"}, {{input.read_end.get(), STDIN_FILENO}});
  std::string others = other_namespaces(child.pid);
  input.write_end.reset();
  static_cast<void>(base::reap_within(child.pidfd.get(), kLimit));
  return others;
}

TEST_CASE("private root: a child shares no namespace but that of processes", "[sandbox]") {
  CHECK(tests::in_child([] { return namespaces_of_child(false); }) ==
        (::geteuid() == 0 ? "ipc mnt net uts" : "ipc mnt net user uts"));
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(tests::in_child([] { return namespaces_of_child(true); }) == "ipc mnt uts");
  CHECK(tests::as_user(kUser, [] { return namespaces_of_child(true); }) == "ipc mnt user uts");
}

TEST_CASE("private root: the mounts of the host are as they were", "[sandbox]") {
  const std::string mounts = base::read_file("/proc/self/mountinfo");
  CHECK(shell_in(shells_root(), "echo started") == "started\n");
  CHECK(base::read_file("/proc/self/mountinfo") == mounts);
}

TEST_CASE("private root: a low limit of open files is no obstacle", "[sandbox]") {
  for_each_caller(
      [] {
        rlimit files{};
        base::check(::getrlimit(RLIMIT_NOFILE, &files), "read the limit");
        files.rlim_cur = 64;
        base::check(::setrlimit(RLIMIT_NOFILE, &files), "lower the limit");
        return shell_in(shells_root(), "echo started");
      },
      "started\n");
}

TEST_CASE("private root: what keeps it from a user is known before", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(tests::in_child([] { return std::to_string(private_root_obstacle(true)); }) == "0");
  CHECK(tests::as_user(kUser, [] { return std::to_string(private_root_obstacle(true)); }) == "0");
  // As hosts forbid it: no namespaces are left to have below this one.
  CHECK(tests::in_child([] {
          base::check(::unshare(CLONE_NEWUSER), "make a namespace");
          base::write_all(
              base::open_file("/proc/self/uid_map", O_WRONLY).get(), "12345 0 1", "map");
          base::write_all(
              base::open_file("/proc/sys/user/max_user_namespaces", O_WRONLY).get(), "0", "limit");
          return std::to_string(private_root_obstacle(true));
        }) == std::to_string(ENOSPC));
}

}  // namespace
}  // namespace vmlaunch::sandbox
