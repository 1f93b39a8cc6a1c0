#include "launcher/run/preparation.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::run {
namespace {

using plan::FileUse;
using tests::as_user;
using tests::kUser;
using tests::refusal;

constexpr std::size_t kMiB = std::size_t{1} << 20U;

std::string config_refusal(const std::string& path) {
  return refusal([&] { static_cast<void>(open_config(path)); });
}

std::string cannot_read(const std::string& path, const std::string& why) {
  return "Cannot read the config " + base::printable(path) + ": " + why;
}

// ---- open_config

TEST_CASE("config file: it is opened for reading, with the folder that it is really in", "[run]") {
  const tests::Folder folder;
  const std::string real = std::filesystem::canonical(folder.path());
  std::filesystem::create_directory(folder.file("vms"));
  folder.write("vms/a, b.json", "{}");
  std::filesystem::create_symlink("vms/a, b.json", folder.file("link.json"));
  std::filesystem::create_symlink("vms", folder.file("elsewhere"));
  for (const char* given :
       {"vms/a, b.json", "link.json", "elsewhere/a, b.json", "vms/../vms//./a, b.json"}) {
    INFO(given);
    const OpenConfig config = open_config(folder.file(given));
    CHECK(config.path == real + "/vms/a, b.json");
    CHECK(config.name == "a, b.json");
    CHECK(base::read_all(config.file.get(), 10, "the config") == "{}");
    CHECK((::fcntl(config.file.get(), F_GETFL) & O_ACCMODE) == O_RDONLY);
    CHECK(::fcntl(config.file.get(), F_GETFD) == FD_CLOEXEC);
    CHECK(::fcntl(config.folder.get(), F_GETFD) == FD_CLOEXEC);
    struct stat found {};
    struct stat opened {};
    REQUIRE(::fstatat(config.folder.get(), config.name.c_str(), &found, AT_SYMLINK_NOFOLLOW) == 0);
    REQUIRE(::fstat(config.file.get(), &opened) == 0);
    CHECK(found.st_ino == opened.st_ino);
  }
}

TEST_CASE("config file: what cannot be a config is a mistake of usage", "[run]") {
  const tests::Folder folder;
  const std::string fifo = folder.file("fifo");
  base::check(::mkfifo(fifo.c_str(), 0666), "make a FIFO");
  const std::string huge = folder.write("huge", "");
  std::filesystem::resize_file(huge, std::uintmax_t{2} << 30U);
  const std::string over = folder.write("over", std::string(kMiB + 1, ' '));
  const std::string below = over + "/below";
  std::filesystem::create_symlink("loop", folder.file("loop"));
  const std::string loop = folder.file("loop");
  struct Row {
    std::string path;
    std::string why;
  };
  for (const Row& row : {
           Row{folder.path(), "it is a folder; name a file in it"},
           Row{"/", "it is a folder; name a file in it"},
           Row{fifo, "it is not a regular file"},
           Row{"/dev/null", "it is not a regular file"},
           Row{huge, "it has 2147483648 bytes; a config has at most 1 MiB"},
           Row{over, "it has 1048577 bytes; a config has at most 1 MiB"},
           Row{below, "Not a directory; type: namei -l " + below},
           Row{loop, "Too many levels of symbolic links; type: namei -l " + loop},
       }) {
    INFO(row.path);
    CHECK(config_refusal(row.path) == "2: " + cannot_read(row.path, row.why));
  }
}

TEST_CASE("config file: one that is missing or closed could be there another day", "[run]") {
  const tests::Folder folder;
  const std::string missing = folder.file("no\nvm");
  CHECK(config_refusal(missing) ==
        "10: " +
            cannot_read(missing,
                        "No such file or directory; type: namei -l " + base::shell_quote(missing)));
  const std::string link = folder.file("link");
  std::filesystem::create_symlink("missing", link);
  CHECK(config_refusal(link) ==
        "10: " + cannot_read(link, "No such file or directory; type: namei -l " + link));
  CHECK(config_refusal("").starts_with("2: "));
  if (tests::skipped_without_root()) {
    return;
  }
  const std::string secret = folder.write("secret", "{}", 0600);
  const std::string denied = "Permission denied; type: namei -l ";
  CHECK(as_user(kUser, [&] { return config_refusal(secret); }) ==
        "10: " + cannot_read(secret, denied + secret));
  base::check(::chmod(folder.path().c_str(), 0700), "close the folder");
  CHECK(as_user(kUser, [&] { return config_refusal(secret); }) ==
        "10: " + cannot_read(secret, denied + secret));
}

TEST_CASE("config file: a whole MiB is taken", "[run]") {
  const tests::Folder folder;
  CHECK(config_refusal(folder.write("vm.json", std::string(kMiB, ' '))) == "nothing");
}

// ---- check_image

struct Header {
  std::uint32_t version = 3;
  std::uint64_t backing_offset = 0;
  std::uint64_t incompatible_features = 0;
  std::string backing = {};
};

std::string big_endian(std::uint64_t value, unsigned bytes) {
  std::string text;
  while (bytes > 0) {
    --bytes;
    text += static_cast<char>((value >> (8 * bytes)) & 0xffU);
  }
  return text;
}

/// A qcow2 header and nothing else.
std::string qcow2(const Header& header) {
  std::string bytes = "QFI\xfb" + big_endian(header.version, 4) +
                      big_endian(header.backing_offset, 8) +
                      big_endian(header.backing_offset == 0 ? 0 : header.backing.size(), 4);
  bytes.resize(72, '\0');
  if (header.version >= 3) {
    bytes += big_endian(header.incompatible_features, 8);
  }
  bytes.resize(512, '\0');
  if (header.backing_offset < bytes.size() - header.backing.size()) {
    bytes.replace(header.backing_offset, header.backing.size(), header.backing);
  }
  return bytes;
}

const FileUse kImage{"disk 0", "/a b.qcow2"};
const std::string kNotQcow2 =
    "10: Cannot use the disk 0 /a b.qcow2: it is not a qcow2 image; type: qemu-img info '/a "
    "b.qcow2'";
std::string head_refusal(const std::string& head,
                         const std::optional<std::string>& backing = std::nullopt) {
  FileUse image = kImage;
  image.backing = backing;
  return refusal([&] { check_image(image, head); });
}

TEST_CASE("qcow2: an image that stands alone is taken, in both versions", "[run]") {
  CHECK(head_refusal(qcow2({2, 0, 0})) == "nothing");
  CHECK(head_refusal(qcow2({3, 0, 0})) == "nothing");
  // Dirty, corrupt, another compression: QEMU's to judge.
  CHECK(head_refusal(qcow2({3, 0, 1})) == "nothing");
  CHECK(head_refusal(qcow2({3, 0, 2})) == "nothing");
  CHECK(head_refusal(qcow2({3, 0, 8})) == "nothing");
}

TEST_CASE("qcow2: an overlay is taken over the image that the config lists alone", "[run]") {
  const std::string of_image = "10: Cannot use the disk 0 /a b.qcow2: ";
  const std::string look = "; type: qemu-img info '/a b.qcow2'";
  for (const std::uint32_t version : {2U, 3U}) {
    const std::string absolute = qcow2({version, 200, 0, "/images/base.qcow2"});
    CHECK(head_refusal(absolute, "/images/base.qcow2") == "nothing");
    CHECK(head_refusal(absolute, "/images/../images/base.qcow2") == "nothing");
    CHECK(head_refusal(qcow2({version, 400, 0, "sub/base"}), "/sub/base") == "nothing");
    CHECK(head_refusal(absolute) ==
          of_image +
              "it lies over /images/base.qcow2, which the config does not list in "
              "\"backing\"; before you add it, see that it is yours: a guest can write the "
              "name of any file there" +
              look);
    CHECK(head_refusal(qcow2({version, 200, 0, "/etc/shadow\n"}), "/images/base.qcow2") ==
          of_image +
              "it lies over /etc/shadow\\x0a, and the config lists /images/base.qcow2: "
              "unless you changed it, the guest has written that" +
              look);
    CHECK(head_refusal(qcow2({version, 0, 0}), "/images/base.qcow2") ==
          of_image + "it stands alone, and the config lists /images/base.qcow2 beneath it" + look);
  }
}

TEST_CASE("qcow2: a name that is not where it should be is nobody's", "[run]") {
  const std::string name = "/images/base.qcow2";
  for (const std::uint64_t offset : {std::uint64_t{495},
                                     std::uint64_t{512},
                                     std::uint64_t{0x10000},
                                     std::uint64_t{1} << 63U,
                                     ~std::uint64_t{0}}) {
    INFO(offset);
    const std::string head = qcow2({3, offset, 0, name});
    CHECK(head_refusal(head).find("a file whose name is in an unusual place") != std::string::npos);
    CHECK(head_refusal(head, name).find("a file whose name is in an unusual place") !=
          std::string::npos);
  }
  // None at all, and one that is longer than the file.
  std::string empty = qcow2({3, 200, 0, ""});
  CHECK(head_refusal(empty, name) != "nothing");
  empty.replace(16, 4, "\xff\xff\xff\xff");
  CHECK(head_refusal(empty, name) != "nothing");
  for (const char* other :
       {"nbd://host/export", "json:{\"driver\":\"nbd\"}", "base.qcow2", "/images"}) {
    INFO(other);
    CHECK(head_refusal(qcow2({3, 200, 0, other}), name) != "nothing");
  }
}

TEST_CASE("qcow2: an image whose data is in a file that its header names is refused", "[run]") {
  const std::string external =
      "10: Cannot use the disk 0 /a b.qcow2: its data is in another file, which is not supported; "
      "make it one image: qemu-img convert -O qcow2 '/a b.qcow2' NEW.qcow2";
  CHECK(head_refusal(qcow2({3, 0, 4})) == external);
  CHECK(head_refusal(qcow2({3, 0, 0xff})) == external);
}

TEST_CASE("qcow2: what has no such header is no image", "[run]") {
  for (const std::string& head : {std::string(),
                                  std::string("QFI"),
                                  std::string("qfi\xfb") + std::string(100, '\0'),
                                  std::string(104, '\0'),
                                  std::string("MZ") + std::string(102, 'x')}) {
    INFO(head.size());
    CHECK(head_refusal(head) == kNotQcow2);
  }
}

TEST_CASE("qcow2: a header that was cut short is never taken", "[run]") {
  const std::string whole = qcow2({3, 0, 0});
  for (std::size_t length = 0; length < 80; ++length) {
    INFO(length);
    CHECK(head_refusal(whole.substr(0, length)) != "nothing");
  }
}

// ---- open_files

/// A plan of a program that is there and the files that are given.
plan::Plan plan_of(const tests::Folder& folder, const std::vector<FileUse>& files) {
  plan::Plan plan;
  plan.qemu.binary = folder.write("qemu", "", 0755);
  plan.files = files;
  return plan;
}

FileUse raw(const std::string& path) {
  return {"disk 0", path, FileUse::Access::read_write};
}

FileUse image(const std::string& path) {
  FileUse file{"disk 1", path, FileUse::Access::read_write};
  file.is_qcow2 = true;
  return file;
}

FileUse log_file(const std::string& path) {
  return {"serial log", path, FileUse::Access::append, FileUse::Create::empty};
}

FileUse variables(const std::string& path, const std::string& from) {
  return {
      "UEFI variables", path, FileUse::Access::read_write, FileUse::Create::from_template, from};
}

std::string open_refusal(const plan::Plan& plan, Authority authority = Authority::user) {
  return refusal([&] { static_cast<void>(open_files(plan, authority)); });
}

std::string check_refusal(const plan::Plan& plan) {
  return refusal([&] { static_cast<void>(open_files(plan, Authority::user, Making::pretended)); });
}

std::string missing(const std::string& purpose, const std::string& path) {
  return "Cannot open the " + purpose + " " + path + " as uid " + std::to_string(::geteuid()) +
         ": No such file or directory; correct the path in the config, or make the file";
}

TEST_CASE("open files: all are there in the plan's order, and what was made is known", "[run]") {
  const tests::Folder folder;
  const std::string disk = folder.write("disk", "d");
  const plan::Plan plan = plan_of(folder,
                                  {variables(folder.file("vars"), folder.write("template", "t")),
                                   raw(disk),
                                   image(folder.write("image", qcow2({}))),
                                   log_file(folder.file("log"))});
  const OpenFiles open = open_files(plan, Authority::user);
  CHECK(open.program);
  REQUIRE(open.files.size() == 4);
  std::string made;
  for (std::size_t i = 0; i < open.files.size(); ++i) {
    INFO(i);
    struct stat there {};
    struct stat opened {};
    REQUIRE(::stat(plan.files[i].path.c_str(), &there) == 0);
    REQUIRE(::fstat(open.files[i].fd.get(), &opened) == 0);
    CHECK(there.st_ino == opened.st_ino);
    made += open.files[i].made ? "made " : "found ";
  }
  CHECK(made == "made found found made ");
}

TEST_CASE("open files: all that is missing is told at once, and nothing is made", "[run]") {
  const tests::Folder folder;
  plan::Plan plan = plan_of(folder,
                            {log_file(folder.file("log")),
                             raw(folder.file("d0")),
                             variables(folder.file("vars"), folder.file("template")),
                             image(folder.file("d1")),
                             log_file(folder.file("log2"))});
  plan.qemu.binary = folder.file("program");
  std::filesystem::remove(folder.file("qemu"));
  const std::string expected = "10: Cannot find the program " + folder.file("program") +
                               "; type: apt install qemu-system-x86, or correct qemu.binary in the "
                               "config\n" +
                               missing("disk 0", folder.file("d0")) + "\n" +
                               missing("UEFI variables' template", folder.file("template")) + "\n" +
                               missing("disk 1", folder.file("d1"));
  CHECK(open_refusal(plan) == expected);
  CHECK(open_refusal(plan, Authority::root) == expected);
  CHECK(check_refusal(plan) == expected);
  CHECK(folder.names().empty());
}

TEST_CASE("open files: an overlay is refused, and what was made for it goes", "[run]") {
  const tests::Folder folder;
  const std::string overlay = folder.write("overlay", qcow2({3, 0x70, 0}));
  const std::string text = folder.write("text", "hello");
  const plan::Plan plan =
      plan_of(folder, {log_file(folder.file("log")), image(overlay), image(text)});
  const std::string expected =
      "10: Cannot use the disk 1 " + overlay +
      ": it lies over a file whose name is in an unusual place, which the config does not list in "
      "\"backing\"; before you add it, see that it is yours: a guest can write the name of any "
      "file "
      "there; type: qemu-img info " +
      overlay + "\nCannot use the disk 1 " + text +
      ": it is not a qcow2 image; type: qemu-img info " + text;
  CHECK(open_refusal(plan) == expected);
  CHECK(check_refusal(plan) == expected);
  CHECK(folder.names() == std::vector<std::string>{"overlay", "qemu", "text"});
}

TEST_CASE("open files: the header that is not looked at is a raw disk's", "[run]") {
  const tests::Folder folder;
  const plan::Plan plan = plan_of(folder, {raw(folder.write("disk", qcow2({3, 0x70, 0})))});
  CHECK(open_refusal(plan) == "nothing");
  CHECK(check_refusal(plan) == "nothing");
}

TEST_CASE("open files: images of qemu-img itself are judged like those by hand", "[run]") {
  if (tests::skipped_without("qemu-img", ::access("/usr/bin/qemu-img", X_OK) == 0)) {
    return;
  }
  const tests::Folder folder;
  const auto create = [&](const std::string& options, const std::string& name) {
    const std::string command = "cd " + base::shell_quote(folder.path()) +
                                " && /usr/bin/qemu-img create -q -f qcow2 " + options + " " + name +
                                " 1M";
    REQUIRE(std::system(command.c_str()) == 0);
    return name;
  };
  const auto judged = [&](const std::string& name) {
    const std::string refused = open_refusal(plan_of(folder, {image(folder.file(name))}));
    return refused.substr(0, refused.find(';'));
  };
  const std::string cannot = "10: Cannot use the disk 1 " + folder.path();
  CHECK(judged(create("", "plain")) == "nothing");
  CHECK(judged(create("-o compat=0.10", "old")) == "nothing");
  CHECK(judged(create("-o cluster_size=2M,lazy_refcounts=on", "features")) == "nothing");
  CHECK(judged(create("-F qcow2 -b plain", "overlay")) ==
        cannot + "/overlay: it lies over plain, which the config does not list in \"backing\"");
  CHECK(judged(create("-o compat=0.10 -F qcow2 -b plain", "old_overlay")) ==
        cannot + "/old_overlay: it lies over plain, which the config does not list in \"backing\"");
  CHECK(judged(create("-o data_file=data.raw", "external")) ==
        cannot + "/external: its data is in another file, which is not supported");
}

TEST_CASE("open files: a file that cannot be made is a refusal, and the others go", "[run]") {
  const tests::Folder folder;
  const std::string from = folder.write("template", "");
  std::filesystem::resize_file(from, (std::uintmax_t{64} << 20U) + 1);
  const plan::Plan plan =
      plan_of(folder, {log_file(folder.file("log")), variables(folder.file("vars"), from)});
  CHECK(open_refusal(plan) == "10: Cannot read " + from + ": File too large");
  CHECK(folder.names() == std::vector<std::string>{"qemu", "template"});
}

TEST_CASE("open files: what only root may open is left to the guardian of root's config", "[run]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const tests::Folder folder;
  const std::string closed = folder.write("closed", "", 0600);
  plan::Plan plan = plan_of(
      folder, {raw(closed), raw(folder.write("open", "", 0666)), log_file(folder.file("log"))});
  CHECK(as_user(kUser, [&] {
          const OpenFiles open = open_files(plan, Authority::root);
          std::string text = open.program ? "program" : "no program";
          for (const guardian::OpenFile& file : open.files) {
            text += file.fd ? ", open" : ", left";
          }
          return text;
        }) == "program, left, open, left");
  const std::string denied =
      "10: Cannot open the disk 0 " + closed + " as uid 12345: Permission denied; type: namei -l " +
      closed + "\nCannot open the serial log " + folder.file("log") +
      " as uid 12345: Permission denied; type: namei -l " + folder.file("log");
  CHECK(as_user(kUser, [&] { return open_refusal(plan, Authority::user); }) == denied);
  CHECK(as_user(kUser, [&] { return check_refusal(plan); }) == denied);
  base::check(::chmod(folder.path().c_str(), 0700), "close the folder");
  CHECK(as_user(kUser, [&] {
          const OpenFiles open = open_files(plan, Authority::root);
          return std::string(open.program ? "program" : "no program");
        }) == "no program");
}

TEST_CASE("check files: it makes nothing", "[run]") {
  const tests::Folder folder;
  const plan::Plan plan = plan_of(folder,
                                  {variables(folder.file("vars"), folder.write("template", "t")),
                                   log_file(folder.file("log"))});
  static_cast<void>(open_files(plan, Authority::user, Making::pretended));
  CHECK(folder.names() == std::vector<std::string>{"qemu", "template"});
}

}  // namespace
}  // namespace vmlaunch::launcher::run
