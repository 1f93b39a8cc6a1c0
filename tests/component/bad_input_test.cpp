#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

struct Case {
  std::string name;
  std::string file;
  int code;
  std::string text;
};

}  // namespace

TEST_CASE("bad input: what is no config is told at once and nothing is started or changed") {
  const Folder folder;
  REQUIRE(::mkfifo(folder.file("fifo").c_str(), 0644) == 0);
  folder.write("sparse.json", "{");
  REQUIRE(::truncate(folder.file("sparse.json").c_str(), off_t{1} << 30) == 0);
  folder.write("bad.json", "{\n  \"nmae\": \"x\",\n  \"memory\": {\"size\": 5}\n}\n");
  REQUIRE(::symlink("loop", folder.file("loop").c_str()) == 0);
  const std::vector<std::string> before = folder.names();
  const std::vector<Case> cases = {
      {"a folder", folder.path(), 2, "it is a folder"},
      {"a FIFO", folder.file("fifo"), 2, "it is not a regular file"},
      {"a gigabyte", folder.file("sparse.json"), 2, "a config has at most 1 MiB"},
      {"a device", "/dev/zero", 2, "it is not a regular file"},
      {"two problems",
       folder.file("bad.json"),
       2,
       "bad.json:2:3: /nmae: unknown key \"nmae\"; did you mean \"name\"?"},
      {"the second problem",
       folder.file("bad.json"),
       2,
       "bad.json:3:22: /memory/size: expected a size such as"},
      {"a loop of links", folder.file("loop"), 2, "Too many levels of symbolic links"},
      {"a missing file", folder.file("none.json"), 10, "No such file or directory; type: namei -l"},
  };
  for (const Case& bad : cases) {
    for (const std::string verb : {"run", "plan", "check"}) {
      Program program(command_of({verb, bad.file}));
      INFO(bad.name << ", " << verb);
      CHECK(program.exit_code(Seconds(10)) == bad.code);
      INFO(program.output());
      CHECK(program.output().find(bad.text) != std::string::npos);
      CHECK(program.output().find("paused: pid") == std::string::npos);
    }
  }
  CHECK(folder.names() == before);
}

TEST_CASE("bad input: a word that is neither a config nor a verb is told as that") {
  Program program(command_of({"chekc"}));
  CHECK(program.exit_code() == 10);
  INFO(program.output());
  CHECK(program.output().find("Cannot read the config chekc: No such file or directory, nor is it "
                              "a verb; type: vmlaunch --help") != std::string::npos);
}

TEST_CASE("bad input: a wrong command line is exit code 2 with the usage") {
  const std::vector<std::vector<std::string>> lines = {{},
                                                       {"run"},
                                                       {"--nonsense"},
                                                       {"run", "--nonsense", "x"},
                                                       {"plan", "--json", "--effective", "x"},
                                                       {"run", "a", "b"},
                                                       {"check"}};
  for (const auto& line : lines) {
    Program program(command_of(line));
    CHECK(program.exit_code() == 2);
    CHECK_FALSE(program.output().empty());
  }
  Program alone(command_of({}));
  CHECK(alone.exit_code() == 2);
  CHECK(alone.output().find("Usage: vmlaunch") != std::string::npos);
}

TEST_CASE("bad input: what a run needs and is not there is refused together, with what to type") {
  const Folder folder;
  Json config = idle_config();
  config["qemu"]["binary"] = "/nonexistent/qemu";
  config["kernel"] = "no-kernel";
  config["disks"] = {{{"path", "no-disk"}, {"format", "raw"}}, {{"path", "/"}, {"format", "raw"}}};
  config["serial"] = {{"file", "serial.log"}};
  const Launch launch = run_of(folder, config);
  for (const std::string verb : {"run", "check"}) {
    Program program(command_of({verb, launch.arguments[1]}));
    CHECK(program.exit_code() == 10);
    INFO(program.output());
    for (const std::string text :
         {"Cannot find the program /nonexistent/qemu; type: apt install qemu-system-x86",
          "Cannot open the kernel ",
          "Cannot open the disk 0 ",
          "Cannot "}) {
      CHECK(program.output().find(text) != std::string::npos);
    }
    CHECK(folder.names() == std::vector<std::string>{"vm.json"});
  }
}

TEST_CASE("bad input: missing permission is refused with the user and what to type") {
  const Folder folder;
  folder.write("secret.img", "x", 0600);
  Json config = idle_config();
  config["disks"] = {{{"path", "secret.img"}, {"format", "raw"}}};
  Launch launch = run_of(folder, config);
  if (is_root()) {
    launch.uid = 12345;
  } else {
    REQUIRE(::chmod(folder.file("secret.img").c_str(), 0) == 0);
  }
  Program program(launch);
  CHECK(program.exit_code() == 10);
  INFO(program.output());
  CHECK(program.output().find("Permission denied; type: namei -l") != std::string::npos);
}

TEST_CASE("bad input: root opens no path that somebody else can steer") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const Folder persons;
  REQUIRE(::symlink("/etc/shadow", persons.file("disk.img").c_str()) == 0);
  REQUIRE(::chown(persons.path().c_str(), 12345, 12345) == 0);
  Json config = idle_config();
  config["disks"] = {{{"path", persons.file("disk.img")}, {"format", "raw"}}};
  Program program(run_of(folder, config));
  CHECK(program.exit_code() == 10);
  INFO(program.output());
  CHECK(program.output().find("others than root can change") != std::string::npos);
}

TEST_CASE("bad input: a program that cannot be executed in QEMU's place is exit code 15 or 10") {
  const Folder folder;
  const std::string script = folder.write("script", "#!/bin/sh\n", 0755);
  const std::string text = folder.write("text", "no program", 0755);
  const std::string plain = folder.write("plain", "no program", 0644);
  for (const auto& [binary, code] : {std::pair(script, 15),
                                     std::pair(text, 15),
                                     std::pair(plain, 10),
                                     std::pair(folder.path(), 10)}) {
    Json config = idle_config();
    config["qemu"]["binary"] = binary;
    Program program(run_of(folder, config));
    INFO(binary);
    CHECK(program.exit_code() == code);
    INFO(program.output());
    CHECK(program.output().find(binary) != std::string::npos);
  }
}

TEST_CASE("bad input: a run without descriptors fails with exit code 1 and says of what") {
  const Folder folder;
  Launch launch = run_of(folder, idle_config());
  launch.arguments.insert(launch.arguments.begin(), {"/usr/bin/prlimit", "--nofile=5:5"});
  Program program(launch);
  CHECK(program.exit_code() == 1);
  INFO(program.output());
  CHECK(program.output().find("Too many open files") != std::string::npos);
}
