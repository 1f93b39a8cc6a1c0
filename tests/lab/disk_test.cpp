// Block devices that a VM writes to.

#include <csignal>
#include <cstdlib>
#include <string>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

namespace {

/// A loop device over a file; what it is used for has to end before.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file) {
    Launch attach;
    attach.arguments = {"/sbin/losetup", "--find", "--show", file};
    Program program(attach);
    REQUIRE(program.exit_code() == 0);
    path_ = program.output().substr(0, program.output().find('\n'));
  }
  ~LoopDevice() { static_cast<void>(std::system(("losetup --detach " + path_).c_str())); }
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice(LoopDevice&&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  LoopDevice& operator=(LoopDevice&&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void do_on_host(const std::string& command) {
  INFO(command);
  REQUIRE(std::system(command.c_str()) == 0);
}

}  // namespace

TEST_CASE("disk: a block device that the host uses is refused, and a free one is claimed",
          "[intel]") {
  do_on_host("modprobe loop");
  const Folder folder;
  const LoopDevice device(folder.write("blocks", std::string(std::size_t{1} << 24U, '\0')));
  Json config = idle_config();
  config["disks"] = {{{"path", device.path()}, {"format", "raw"}}};

  do_on_host("mkswap " + device.path() + " && swapon " + device.path());
  Program refused(run_of(folder, config));
  const int code = refused.exit_code();
  do_on_host("swapoff " + device.path());
  INFO(refused.output());
  CHECK(code == 10);
  CHECK(refused.output().find("Device or resource busy; it is mounted, swap, ") !=
        std::string::npos);

  Program accepted(run_of(folder, config));
  REQUIRE(accepted.says("] running"));
  CHECK(std::system(("swapon " + device.path()).c_str()) != 0);
  accepted.signal(SIGTERM);
  CHECK(accepted.exit_code() == 18);
  do_on_host("swapon " + device.path() + " && swapoff " + device.path());
}
