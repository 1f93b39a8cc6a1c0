// The guest's screen, shown by real servers and viewers, with QEMU under its whole jail.

#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "tests/component/taken_over.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

/// A cookie that any display takes, as Xau(3) writes it.
std::string cookie_file() {
  const auto counted = [](const std::string& text) {
    return std::string{'\0', static_cast<char>(text.size())} + text;
  };
  return "\xff\xff" + counted("") + counted("") + counted("MIT-MAGIC-COOKIE-1") +
         counted("0123456789abcdef");
}

/// An X server without a screen; what it shows is in a file. It lets in whoever has the cookie.
class Screen {
 public:
  Screen()
      : authority_(folder_.write("cookie", cookie_file(), 0600)),
        server_(command()),
        content_(folder_.file("Xvfb_screen0")) {
    base::check(::chmod(folder_.path().c_str(), 0755), "open the folder");
    if (is_root()) {
      base::check(::chown(authority_.c_str(), kPerson, kPerson), "give the cookie");
    }
    const bool ready = server_.says("\n");
    INFO(base::read_file(folder_.file("log")));
    REQUIRE(ready);
    REQUIRE(eventually([&] { return colours() == 1; }));
  }

  [[nodiscard]] std::string display() const {
    return ":" + server_.output().substr(0, server_.output().find('\n'));
  }
  [[nodiscard]] const std::string& authority() const { return authority_; }

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
  /// It says which number it took, as the first that no other has.
  [[nodiscard]] Launch command() const {
    Launch launch;
    launch.arguments = {"/bin/sh",
                        "-c",
                        "exec Xvfb -displayfd 1 -auth '" + authority_ +
                            "' -screen 0 1024x768x24 -fbdir '" + folder_.path() + "' 2> '" +
                            folder_.file("log") + "'"};
    return launch;
  }

  Folder folder_ = shared_folder();
  std::string authority_;
  Program server_;
  std::string content_;
};

}  // namespace

TEST_CASE("display: a GTK or SDL window of the guest's screen is on the desktop") {
  for (const char* toolkit : {"gtk", "sdl"}) {
    INFO(toolkit);
    const Screen screen;
    const Folder folder;
    Json config = idle_config();
    config["display"] = toolkit;
    Launch launch = run_of(folder, config);
    launch.environment = {"DISPLAY=" + screen.display(), "XAUTHORITY=" + screen.authority()};
    if (is_root()) {
      launch.arguments.insert(launch.arguments.begin() + 1, {"--as", std::to_string(kPerson)});
      for (const std::string& path : {folder.path(), launch.arguments.back()}) {
        base::check(::chown(path.c_str(), kPerson, kPerson), "give it away");
      }
    }
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

TEST_CASE("display: a USB device of a SPICE viewer's is plugged into the guest") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const std::string image = folder.write("disc.iso", std::string(1 << 20, 'x'));
  TakenOver vm(Json{{"display", {{"spice", "127.0.0.1:5976"}, {"usb_redirection", 1}}}});
  const auto attached = [&] {
    const Json answer =
        vm.ask({{"execute", "qom-get"},
                {"arguments",
                 {{"path", "/machine/peripheral/redirected0-device"}, {"property", "attached"}}}});
    return answer.at("return") == true;
  };
  CHECK_FALSE(attached());
  const Screen screen;
  Launch viewer;
  viewer.arguments = {"/usr/bin/spicy",
                      "--host=127.0.0.1",
                      "--port=5976",
                      "--spice-share-cd=" + image,
                      "--spice-usbredir-redirect-on-connect=-1,-1,-1,-1,1"};
  viewer.environment = {"DISPLAY=" + screen.display(), "XAUTHORITY=" + screen.authority()};
  Program program(viewer);
  const bool plugged = eventually(attached, Seconds(30));
  static_cast<void>(program.says("nothing like this", Seconds(0.1)));
  INFO(program.output());
  CHECK(plugged);
  CHECK(vm.guardian().refused().empty());
  CHECK(vm.guardian().state() == "running");
}

TEST_CASE("display: a window without a desktop is refused before anything is done") {
  const Folder folder;
  Json config = idle_config();
  config["display"] = "gtk";
  Program program(run_of(folder, config));
  CHECK(program.exit_code() == 10);
  CHECK(program.output().find("Cannot show a window: ") != std::string::npos);
}
