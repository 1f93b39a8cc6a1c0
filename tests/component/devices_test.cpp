#include <fcntl.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "tests/component/taken_over.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

constexpr std::size_t kCdSector = 2048;

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A CD-ROM that starts `code` as El Torito has it: sector 17 names the catalogue, the catalogue's
/// second entry the first sector of what is started, without an emulated disk.
std::string bootable_cd(const std::string& code) {
  std::string cd(64 * kCdSector, '\0');
  const auto put = [&](std::size_t sector, std::size_t offset, const std::string& bytes) {
    cd.replace(sector * kCdSector + offset, bytes.size(), bytes);
  };
  put(17,
      1,
      "CD001\x01"
      "EL TORITO SPECIFICATION");
  put(17, 0x47, "\x13");
  put(19, 0, "\x01");
  put(19, 30, "\x55\xaa\x88");
  put(19, 0x26, "\x01");
  put(19, 0x28, "\x14");
  put(20, 0, code);
  return cd;
}

/// Flags of QEMU's descriptors of a file, as the kernel shows them.
std::vector<int> flags_of(pid_t pid, const std::string& path) {
  std::vector<int> flags;
  const std::string process = "/proc/" + std::to_string(pid);
  for (const auto& entry : std::filesystem::directory_iterator(process + "/fd")) {
    if (std::filesystem::read_symlink(entry) == path) {
      std::ifstream info(process + "/fdinfo/" + entry.path().filename().string());
      std::string word;
      while (info >> word && word != "flags:") {
      }
      int value = 0;
      info >> std::oct >> value;
      flags.push_back(value);
    }
  }
  return flags;
}

}  // namespace

TEST_CASE("devices: a guest boots a disk of each bus, cached or not, with a thread or without") {
  const Folder folder;
  Json config = brief_config(folder);
  for (const char* options :
       {R"({"bus": "virtio-blk", "cache": "none", "aio": "native", "iothread": true})",
        R"({"bus": "virtio-blk", "aio": "io_uring"})",
        R"({"bus": "virtio-blk", "cache": "unsafe", "serial": "one, \"two\""})",
        R"({"bus": "virtio-scsi", "cache": "none", "aio": "native", "iothread": true})",
        R"({"bus": "virtio-scsi", "cache": "writethrough", "serial": "12345678901234567890"})",
        R"({"bus": "sata", "cache": "none"})",
        R"({"bus": "sata", "cache": "writethrough", "serial": "12345678901234567890"})"}) {
    INFO(options);
    Json changed = config;
    changed["disks"][0].update(Json::parse(options));
    Program program(run_of(folder, changed));
    const int code = program.exit_code();
    INFO(program.output());
    CHECK(program.output().find("QEMU tried") == std::string::npos);
    CHECK(code == 0);
    CHECK(program.output().find("the guest shut down") != std::string::npos);
  }
}

TEST_CASE("devices: a guest boots a CD-ROM when the disk before it has nothing to boot") {
  const Folder folder;
  Json config = brief_config(folder);
  folder.write("boot.iso", bootable_cd(content_of(folder.file("boot.img")).substr(0, 510)));
  folder.write("blank.img", std::string(std::size_t{1} << 20U, '\0'));
  for (const char* bus : {"sata", "virtio-scsi"}) {
    INFO(bus);
    config["disks"] = {{{"path", "blank.img"}, {"format", "raw"}},
                       {{"path", "boot.iso"}, {"type", "cdrom"}, {"bus", bus}}};
    Program program(run_of(folder, config));
    const int code = program.exit_code();
    INFO(program.output());
    CHECK(code == 0);
    CHECK(program.output().find("the guest shut down") != std::string::npos);
  }
}

TEST_CASE("devices: QEMU goes past the page cache with cache none, and not without") {
  const Folder folder;
  const std::string raw = folder.write("raw.img", std::string(std::size_t{1} << 20U, '\0'));
  const std::string qcow2 = folder.file("image.qcow2");
  REQUIRE(std::system(("qemu-img create -q -f qcow2 " + qcow2 + " 1M").c_str()) == 0);
  Json config = idle_config();
  for (const bool direct : {true, false}) {
    INFO(direct);
    const char* cache = direct ? "none" : "writeback";
    const char* aio = direct ? "native" : "threads";
    config["disks"] = {
        {{"path", "raw.img"}, {"format", "raw"}, {"cache", cache}, {"aio", aio}},
        {{"path", "image.qcow2"}, {"format", "qcow2"}, {"cache", cache}, {"aio", aio}}};
    Program program(run_of(folder, config));
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    for (const std::string& path : {raw, qcow2}) {
      const std::vector<int> flags = flags_of(qemu_pid(program), path);
      CHECK_FALSE(flags.empty());
      for (const int flag : flags) {
        CHECK(((flag & O_DIRECT) != 0) == direct);
      }
    }
    program.signal(SIGINT);
    CHECK(program.exit_code() == 18);
  }
}

TEST_CASE("devices: a snapshot within an image is saved, loaded and deleted") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const std::string image = folder.file("image.qcow2");
  REQUIRE(std::system(("qemu-img create -q -f qcow2 " + image + " 1M").c_str()) == 0);
  TakenOver vm(Json{{"disks", {{{"path", image}, {"format", "qcow2"}}}}});
  const auto finished = [&](const std::string& command, Json arguments) {
    arguments.update({{"job-id", command}, {"tag", "one"}, {"devices", {"disk0"}}});
    REQUIRE(vm.ask({{"execute", command}, {"arguments", arguments}}).contains("return"));
    Json job;
    CHECK(eventually([&] {
      const Json jobs = vm.ask({{"execute", "query-jobs"}});
      job = jobs.value(Json::json_pointer("/return/0"), Json());
      return job.is_object() && job["status"] == "concluded";
    }));
    INFO(job);
    CHECK_FALSE(job.contains("error"));
    REQUIRE(
        vm.ask({{"execute", "job-dismiss"}, {"arguments", {{"id", command}}}}).contains("return"));
  };
  finished("snapshot-save", {{"vmstate", "disk0"}});
  finished("snapshot-load", {{"vmstate", "disk0"}});
  finished("snapshot-delete", Json::object());
  CHECK(vm.guardian().refused().empty());
}

TEST_CASE("devices: cache none is refused where the file system has no O_DIRECT") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const std::string ram = folder.file("ram");
  std::filesystem::create_directory(ram);
  Json config = idle_config();
  config["disks"] = {{{"path", "ram/disk"}, {"format", "raw"}, {"cache", "none"}}};
  Launch launch = run_of(folder, config);
  const std::string script = "mount -t ramfs none " + ram + " && head -c 1M /dev/zero > " + ram +
                             "/disk && chmod 666 " + ram + "/disk && exec " + launch.arguments[0] +
                             " " + launch.arguments[1];
  launch.arguments = {"/usr/bin/unshare", "-m", "sh", "-c", script};
  Program program(launch);
  const int code = program.exit_code();
  INFO(program.output());
  CHECK(code == 10);
  CHECK(program.output().find("its file system has no O_DIRECT") != std::string::npos);
}

TEST_CASE("devices: QEMU takes each graphics card and sound card, with VNC and local time") {
  const Folder folder;
  Json config = idle_config();
  config["display"] = {{"vnc", "127.0.0.1:5976"}};
  config["rtc"] = {{"base", "localtime"}};
  for (const auto& [machine, video, sound] : {std::tuple("q35", "none", "hda"),
                                              std::tuple("q35", "vga", "hda-micro"),
                                              std::tuple("q35", "qxl", "hda"),
                                              std::tuple("pc", "virtio", "hda")}) {
    INFO(machine << ", " << video << ", " << sound);
    config["machine"] = machine;
    config["video"] = video;
    config["audio"] = {{"backend", "none"}, {"device", sound}};
    Program program(run_of(folder, config));
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    program.signal(SIGINT);
    CHECK(program.exit_code() == 18);
  }
}

TEST_CASE("devices: QEMU waits for USB devices that are not there, beside VNC's tablet") {
  const Folder folder;
  Json config = idle_config();
  config["display"] = {{"vnc", "127.0.0.1:5975"}};
  config["usb"] = {{{"device", "ffff:fffe"}, {"optional", true}},
                   {{"port", "255-1.2.3.4.5.6"}, {"optional", true}}};
  Program program(run_of(folder, config));
  const bool running = program.says("] running");
  INFO(program.output());
  REQUIRE(running);
  CHECK(program.output().find("the USB device ffff:fffe is not there") != std::string::npos);
  program.signal(SIGINT);
  CHECK(program.exit_code() == 18);
}

TEST_CASE("devices: a guest whose sound server is not there runs unheard, and is told so") {
  const Folder folder;
  Json config = brief_config(folder);
  config["audio"] = {{"backend", "pipewire"}, {"server", "socket"}};
  Program program(run_of(folder, config));
  const int code = program.exit_code();
  INFO(program.output());
  CHECK(code == 0);
  CHECK(program.output().find("there is no sound server at " + folder.file("socket")) !=
        std::string::npos);
  CHECK(program.output().find("the guest shut down") != std::string::npos);
}
