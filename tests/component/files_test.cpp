#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Json uefi_config() {
  Json config = idle_config();
  config["memory"]["size"] = "64M";
  config["firmware"] = {{"uefi", true}, {"vars", "VARS.fd"}};
  return config;
}

}  // namespace

TEST_CASE("files: names with a comma, a space, a quote and a newline work for every file") {
  const Folder folder("a, b=c'\"\\\nd");
  Json config = brief_config(folder);
  config.erase("name");
  config["serial"] = {{"file", "serial,\n\"log\".txt"}};
  Program program(run_of(folder, config, "vm, \"1\"\n.json"));
  const int code = program.exit_code();
  INFO(program.output());
  CHECK(code == 2);  // such a file name gives no VM name
  config["name"] = "odd";
  Program named(run_of(folder, config, "vm, \"1\"\n.json"));
  const int named_code = named.exit_code();
  INFO(named.output());
  CHECK(named_code == 0);
  CHECK(named.output().find("the guest shut down") != std::string::npos);
  CHECK(folder.names() ==
        std::vector<std::string>{"boot.img", "serial,\n\"log\".txt", "vm, \"1\"\n.json"});
}

TEST_CASE("files: one file in two places of a config is refused, under whatever names") {
  const Folder folder;
  Json config = brief_config(folder);
  const std::string disk = content_of(folder.file("boot.img"));
  REQUIRE(::symlink("boot.img", folder.file("link").c_str()) == 0);
  REQUIRE(::link(folder.file("boot.img").c_str(), folder.file("hard.img").c_str()) == 0);
  for (const char* name : {"boot.img", "link", "hard.img"}) {
    INFO(name);
    config["serial"] = {{"file", name}};
    for (const char* verb : {"run", "check"}) {
      INFO(verb);
      Program program(command_of({verb, folder.write("vm.json", config.dump())}));
      CHECK(program.exit_code() == 10);
      INFO(program.output());
      CHECK(program.output().find("it is the same file as the disk 0") != std::string::npos);
    }
  }
  CHECK(content_of(folder.file("boot.img")) == disk);
}

TEST_CASE("files: a kernel under an odd name boots") {
  const Folder folder("k, \"x\"\ny");
  Json config = guest_config("");
  folder.write("vm linuz", content_of(config["kernel"]));
  folder.write("init,rd", content_of(config["initrd"]));
  config["kernel"] = "vm linuz";
  config["initrd"] = "init,rd";
  Program program(run_of(folder, config));
  const int code = program.exit_code(Seconds(120));
  INFO(program.output());
  CHECK(code == 0);
  CHECK(program.output().find("vmlaunch demo guest: hello") != std::string::npos);
}

TEST_CASE("files: the UEFI variables are made once from the template and kept") {
  const Folder folder;
  for (const bool first : {true, false}) {
    Program program(run_of(folder, uefi_config()));
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    program.signal(SIGINT);
    REQUIRE(program.says("power button pressed"));
    program.signal(SIGINT);
    CHECK(program.exit_code() == 0);
    CHECK(folder.names() == std::vector<std::string>{"VARS.fd", "vm.json"});
    if (first) {
      std::ofstream(folder.file("VARS.fd"), std::ios::in | std::ios::binary).seekp(100) << "kept";
    }
  }
  CHECK(content_of(folder.file("VARS.fd")).substr(100, 4) == "kept");
  struct stat info {};
  REQUIRE(::stat(folder.file("VARS.fd").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
}

TEST_CASE("files: what was made for a QEMU that did not start is taken back") {
  const Folder folder;
  Json config = uefi_config();
  config["cpu"]["model"] = "nonsense";
  config["serial"] = {{"file", "serial.log"}};
  Program program(run_of(folder, config));
  CHECK(program.exit_code() == 15);
  CHECK(folder.names() == std::vector<std::string>{"vm.json"});
}

TEST_CASE("files: plan and check make nothing") {
  const Folder folder;
  const Launch run = run_of(folder, uefi_config());
  for (const std::string verb : {"plan", "check"}) {
    Program program(command_of({verb, run.arguments[1]}));
    const int code = program.exit_code();
    INFO(program.output());
    CHECK(code == 0);
    CHECK(folder.names() == std::vector<std::string>{"vm.json"});
  }
}

TEST_CASE("files: a disk that only root may open serves a QEMU with another uid") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  Json config = brief_config(folder);
  REQUIRE(::chmod(folder.file("boot.img").c_str(), 0600) == 0);
  REQUIRE(::chmod(folder.path().c_str(), 0700) == 0);
  Program program(run_of(folder, config));
  const int code = program.exit_code();
  INFO(program.output());
  CHECK(code == 0);
  CHECK(program.output().find("the guest shut down") != std::string::npos);
}

TEST_CASE("files: a guest boots over the images of its config, and of no others") {
  const Folder folder;
  Json config = brief_config(folder);  // its boot sector is in boot.img
  const auto shell = [&](const std::string& command) {
    REQUIRE(std::system(("cd " + folder.path() + " && " + command).c_str()) == 0);
  };
  shell("qemu-img create -q -f qcow2 -F raw -b boot.img middle.qcow2");
  shell("qemu-img create -q -f qcow2 -F qcow2 -b middle.qcow2 top.qcow2");
  const auto run = [&](const Json& backing, int code, const std::string& words) {
    config["disks"] = {{{"path", "top.qcow2"}, {"format", "qcow2"}, {"backing", backing}}};
    Program program(run_of(folder, config));
    INFO(backing.dump());
    CHECK(program.exit_code() == code);
    INFO(program.output());
    CHECK(program.output().find(words) != std::string::npos);
  };
  const Json middle = {{"path", "middle.qcow2"}, {"format", "qcow2"}};
  const Json last = {{"path", "boot.img"}, {"format", "raw"}};
  for (const bool only_root : {false, true}) {
    if (only_root && is_root()) {
      REQUIRE(::chmod(folder.file("top.qcow2").c_str(), 0600) == 0);
      REQUIRE(::chmod(folder.file("middle.qcow2").c_str(), 0600) == 0);
    }
    run({middle, last}, 0, "the guest shut down");
    run(Json::array(), 10, "top.qcow2: it lies over middle.qcow2, which the config does not list");
    run(Json::array({middle}),
        10,
        "middle.qcow2: it lies over boot.img, which the config does not list");
  }
  // As a guest could do it.
  shell("qemu-img rebase -u -f qcow2 -F raw -b /etc/shadow top.qcow2");
  run({middle, last}, 10, "top.qcow2: it lies over /etc/shadow, and the config lists ");
  shell("qemu-img rebase -u -f qcow2 -b '' top.qcow2");
  run({middle, last}, 10, "it stands alone, and the config lists ");
}

TEST_CASE("files: a second VM is refused the first one's UEFI variables, and takes nothing away") {
  const Folder folder;
  Program first(run_of(folder, uefi_config()));
  REQUIRE(first.says("] running"));
  Program second(run_of(folder, uefi_config()));
  CHECK(second.exit_code() == 10);
  INFO(second.output());
  CHECK(second.output().find("another VM uses it") != std::string::npos);
  CHECK(folder.names() == std::vector<std::string>{"VARS.fd", "vm.json"});
  first.signal(SIGINT);
  REQUIRE(first.says("power button pressed"));
  first.signal(SIGINT);
  CHECK(first.exit_code() == 0);
}

TEST_CASE("files: a disk in use is told by its name") {
  const Folder folder;
  static_cast<void>(brief_config(folder));
  Json config = idle_config();
  config["kernel"] = GUEST_DIR "/vmlinux";  // which does not touch the disk
  config["disks"] = {{{"path", "boot.img"}, {"format", "raw"}}};
  Program first(run_of(folder, config));
  REQUIRE(first.says("] running"));
  config["name"] = idle_config().at("name");
  Program second(run_of(folder, config));
  CHECK(second.exit_code() == 15);
  INFO(second.output());
  CHECK(second.output().find("is the disk 0, " + folder.file("boot.img")) != std::string::npos);
  first.signal(SIGINT);
  CHECK(first.exit_code() == 18);
}

TEST_CASE("files: check gives the code that the run gives") {
  if (skipped_without_root()) {
    return;
  }
  struct Parity {
    std::string name;
    uid_t folder_owner;
    unsigned mode;
    bool kernel;
    std::vector<std::string> environment;
    int code;
  };
  const std::vector<Parity> rows = {
      {"a disk in a person's folder", 12345, 0600, false, {}, 10},
      {"a kernel that only root may read", 0, 0600, true, {}, 10},
      {"root's disk for a config of root's with sudo", 0, 0600, false, {"SUDO_UID=12345"}, 0},
      {"a disk for all", 0, 0644, false, {}, 0},
  };
  for (const Parity& row : rows) {
    const Folder folder;
    const Folder other;
    const std::string path = other.write("file", std::string(1024, 'x'), row.mode);
    REQUIRE(::chown(other.path().c_str(), row.folder_owner, row.folder_owner) == 0);
    Json config = probe_config();
    config["qemu"]["binary"] = folder.copy(PROBE_PROGRAM, "probe");
    config["qemu"]["extra_args"] = {"shutdown"};
    if (row.kernel) {
      config["kernel"] = path;
    } else {
      config["disks"] = {{{"path", path}, {"format", "raw"}}};
    }
    const Launch launch = run_of(folder, config);
    for (const std::string verb : {"check", "run"}) {
      Launch verbs = command_of({verb, launch.arguments[1]});
      verbs.environment = row.environment;
      Program program(verbs);
      INFO(row.name << ", " << verb);
      const int code = program.exit_code();
      INFO(program.output());
      CHECK(code == row.code);
    }
  }
}
