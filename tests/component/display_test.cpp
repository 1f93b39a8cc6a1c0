// The guest's screen, shown by real servers and viewers, with QEMU under its whole jail.

#include <sys/stat.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

constexpr uid_t kPerson = 12345;

/// An X server without a screen; what it shows is in a file.
class Screen {
 public:
  explicit Screen(const std::string& display)
      : server_(command(display, folder_.path())), content_(folder_.file("Xvfb_screen0")) {
    REQUIRE(eventually([&] { return colours() == 1; }));
  }

  /// How many there are.
  [[nodiscard]] std::size_t colours() const {
    constexpr std::size_t kHeader = 4000;  // and the table of colours
    constexpr std::size_t kPixel = 4;
    std::ifstream file(content_, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    std::set<std::string> found;
    for (std::size_t i = kHeader; i + kPixel <= bytes.size(); i += kPixel) {
      found.insert(bytes.substr(i, kPixel));
    }
    return found.size();
  }

 private:
  static Launch command(const std::string& display, const std::string& folder) {
    Launch launch;
    launch.arguments = {
        "/usr/bin/Xvfb", display, "-ac", "-screen", "0", "1024x768x24", "-fbdir", folder};
    return launch;
  }

  Folder folder_;
  Program server_;
  std::string content_;
};

/// Whose word for the environment a window needs.
Json window_config(const char* toolkit) {
  Json config = idle_config();
  config["display"] = toolkit;
  if (is_root()) {
    config["run_as"] = kPerson;
  }
  return config;
}

}  // namespace

TEST_CASE("display: a GTK or SDL window of the guest's screen is on the desktop") {
  const std::string display = ":" + std::to_string(1000 + ::getpid() % 50000);
  for (const char* toolkit : {"gtk", "sdl"}) {
    INFO(toolkit);
    const Screen screen(display);
    const Folder folder;
    Launch launch = run_of(folder, window_config(toolkit));
    launch.environment.push_back("DISPLAY=" + display);
    Program program(launch);
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    CHECK(eventually([&] { return screen.colours() > 1; }));
    CHECK(program.output().find("lets each of its programs read all keys") != std::string::npos);
    CHECK(program.output().find("QEMU tried") == std::string::npos);
    program.signal(SIGINT);
    CHECK(program.exit_code() == 18);
  }
}

TEST_CASE("display: a SPICE viewer sees the guest's screen") {
  const Folder folder;
  Json config = idle_config();
  config["display"] = {{"spice", "127.0.0.1:5975"}, {"usb_redirection", 2}};
  for (const char* video : {"vga", "qxl", "virtio"}) {
    INFO(video);
    config["video"] = video;
    Program program(run_of(folder, config));
    const bool running = program.says("] running");
    INFO(program.output());
    REQUIRE(running);
    const std::string shot = folder.file(std::string(video) + ".ppm");
    CHECK(std::system(
              ("timeout 20 spicy-screenshot -h 127.0.0.1 -p 5975 -o " + shot + " > /dev/null 2>&1")
                  .c_str()) == 0);
    struct stat info {};
    REQUIRE(::stat(shot.c_str(), &info) == 0);
    CHECK(info.st_size > 100000);
    CHECK(program.output().find("QEMU tried") == std::string::npos);
    program.signal(SIGINT);
    CHECK(program.exit_code() == 18);
  }
}

TEST_CASE("display: a window without a desktop is refused before anything is done") {
  const Folder folder;
  Program program(run_of(folder, window_config("gtk")));
  CHECK(program.exit_code() == 10);
  CHECK(program.output().find("neither WAYLAND_DISPLAY nor DISPLAY") != std::string::npos);
}
