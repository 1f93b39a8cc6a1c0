#include "base/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <thread>

#include "base/errors.hpp"
#include "sandbox/privileges.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::base {
namespace {

using tests::PciTree;

TEST_CASE("tree: files, folders and links are read below the root", "[tree]") {
  const PciTree built;
  built.write("/a/file", "one\ntwo\n\n");
  built.write("/a/bare", "one");
  built.write("/a/empty", "");
  built.link("/a/link", "file");
  built.link("/b", "a/nested/../link");
  const Tree tree = built.tree();
  CHECK(tree.read("/a/file") == "one\ntwo\n");
  CHECK(tree.read("/a/bare") == "one");
  CHECK(tree.read("/a/empty") == "");
  CHECK(tree.read("/a/link") == "one\ntwo\n");
  CHECK(tree.read("/a/none") == std::nullopt);
  CHECK(tree.read("/a") == std::nullopt);
  CHECK(tree.exists("/a/link"));
  CHECK_FALSE(tree.exists("/b"));
  CHECK(tree.list("/a") == std::vector<std::string>{"bare", "empty", "file", "link"});
  CHECK(tree.list("/a/file").empty());
  CHECK(tree.list("/none").empty());
  CHECK(tree.link_name("/b") == "link");
  CHECK(tree.link_name("/a") == std::nullopt);
  CHECK(tree.link_name("/none") == std::nullopt);
  CHECK(tree.path_of("/a") == built.root() + "/a");
}

TEST_CASE("tree: a link is followed to its end, as seen from the root", "[tree]") {
  const PciTree built;
  built.write("/a/b/file", "text");
  built.link("/one", "a/b");
  built.link("/two", "/one/file");
  built.link("/loop", "loop");
  built.link("/nowhere", "none");
  const Tree tree = built.tree();
  CHECK(tree.resolve("/one") == "/a/b");
  CHECK(tree.resolve("/two") == "/a/b/file");
  CHECK(tree.resolve("/") == "/");
  CHECK(tree.resolve("/a/../..") == "/");
  CHECK(tree.resolve("/loop") == std::nullopt);
  CHECK(tree.resolve("/nowhere") == std::nullopt);
}

TEST_CASE("tree: no link leads out of the root", "[tree]") {
  const PciTree built;
  built.write("/etc/passwd", "the tree's own");
  built.link("/absolute", "/etc/passwd");
  built.link("/upwards", "../../../../../../../../etc/passwd");
  built.link("/hostname", "/etc/hostname");
  built.link("/magic", "/proc/self/root/etc/passwd");
  built.link("/etc/up", "..");
  const Tree tree = built.tree();
  CHECK(tree.read("/absolute") == "the tree's own");
  CHECK(tree.read("/upwards") == "the tree's own");
  CHECK(tree.read("/etc/up/../../etc/passwd") == "the tree's own");
  CHECK(tree.resolve("/upwards") == "/etc/passwd");
  CHECK_FALSE(tree.exists("/hostname"));
  CHECK_FALSE(tree.exists("/magic"));
  CHECK(tree.list("/etc/up/etc") == std::vector<std::string>{"passwd", "up"});
}

TEST_CASE("tree: the host itself is a tree, with its magic links closed", "[tree]") {
  const Tree host("");
  CHECK(host.read("/proc/self/comm").has_value());
  CHECK(host.resolve("/proc/self") == "/proc/" + std::to_string(::getpid()));
  CHECK_FALSE(host.exists("/proc/self/root/etc"));
  CHECK(host.path_of("/sys") == "/sys");
}

TEST_CASE("tree: a FIFO, a device and a huge file are not read", "[tree]") {
  const PciTree built;
  built.fifo("/fifo");
  built.write("/huge", "");
  REQUIRE(::truncate(built.path_of("/huge").c_str(), off_t{1} << 40) == 0);
  const Tree tree = built.tree();
  CHECK(tree.exists("/fifo"));
  CHECK(tree.read("/fifo") == std::nullopt);
  CHECK(tree.read("/huge") == std::nullopt);
  CHECK(Tree("").read("/dev/zero") == std::nullopt);
}

TEST_CASE("tree: a root that cannot be opened is told at once", "[tree]") {
  const PciTree built;
  built.write("/file", "");
  for (const auto& [root, error] :
       {std::pair(built.path_of("/none"), ENOENT), std::pair(built.path_of("/file"), ENOTDIR)}) {
    try {
      const Tree tree(root);
      FAIL("it was opened");
    } catch (const std::system_error& failure) {
      CHECK(failure.code().value() == error);
      CHECK(std::string(failure.what()).find(root) != std::string::npos);
    }
  }
}

TEST_CASE("tree: the permission bits are told", "[tree]") {
  const PciTree built;
  built.write("/file", "");
  REQUIRE(::chmod(built.path_of("/file").c_str(), 0640) == 0);
  CHECK((built.tree().status("/file").value().st_mode & 0777U) == 0640U);
  CHECK_FALSE(built.tree().status("/none"));
}

TEST_CASE("tree: what is hidden from a user is not the same as what is not there", "[tree]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const PciTree built;
  built.write("/open", "text");
  built.write("/closed", "text");
  built.write("/folder/file", "text");
  REQUIRE(::chmod(built.path_of("/closed").c_str(), 0600) == 0);
  REQUIRE(::chmod(built.path_of("/folder").c_str(), 0700) == 0);
  const auto hidden = [&] {
    const Tree tree = built.tree();
    std::string found;
    for (const char* path : {"/open", "/none", "/closed", "/folder", "/folder/file"}) {
      found += tree.is_hidden(path) ? std::string(path) + " " : "";
    }
    return found;
  };
  CHECK(hidden().empty());
  CHECK(tests::as_user(tests::kUser, hidden) == "/closed /folder /folder/file ");
}

TEST_CASE("tree: it serves a process that gave up its rights", "[tree]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const PciTree built;
  built.write("/a/file", "text");
  built.link("/link", "a/file");
  CHECK(tests::in_child([&] {
          sandbox::become({tests::kUser, tests::kUser, {}});
          const Tree tree = built.tree();
          return tree.read("/link").value_or("-") + " " + tree.resolve("/link").value_or("-");
        }) == "text /a/file");
}

TEST_CASE("tree: folders that are renamed meanwhile make nothing vanish", "[tree]") {
  const PciTree built;
  built.write("/a/b/c/file", "text");
  built.link("/link", "a/b/../b/c/../../b/c/file");
  built.folder("/x");
  const Tree tree = built.tree();
  std::atomic<bool> stop = false;
  std::thread other([&] {
    for (bool there = true; !stop; there = !there) {
      static_cast<void>(::rename(built.path_of(there ? "/x" : "/y").c_str(),
                                 built.path_of(there ? "/y" : "/x").c_str()));
    }
  });
  int missed = 0;
  for (int i = 0; i < 20000; ++i) {
    missed += tree.exists("/link") ? 0 : 1;
  }
  stop = true;
  other.join();
  CHECK(missed == 0);
}

}  // namespace
}  // namespace vmlaunch::base
