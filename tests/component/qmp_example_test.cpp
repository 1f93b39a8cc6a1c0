#include <csignal>
#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"
#include "tests/support/real_qemu.hpp"

using namespace vmlaunch::tests;

namespace {

Launch example(const std::vector<std::string>& words) {
  Launch launch;
  launch.arguments = {EXAMPLE_PROGRAM};
  launch.arguments.insert(launch.arguments.end(), words.begin(), words.end());
  return launch;
}

/// "QEMU 7.2.22", by its own words.
std::string name_of_qemu() {
  const std::string marker = "version ";
  Launch launch;
  launch.arguments = {"/usr/bin/env", "qemu-system-x86_64", "--version"};  // found by PATH
  Program qemu(launch);
  REQUIRE(qemu.exit_code() == 0);
  const std::string& text = qemu.output();
  const std::size_t found = text.find(marker);
  REQUIRE(found != std::string::npos);
  const std::size_t begin = found + marker.size();
  return "QEMU " + text.substr(begin, text.find_first_not_of("0123456789.", begin) - begin);
}

}  // namespace

TEST_CASE("qmp: the example speaks to a QEMU, shows its events and says how it ended") {
  const Folder folder;
  const std::string path = folder.file("monitor");
  RealQemu qemu({{"-machine", "none"}, path});
  {
    Program status(example({path, "query-status"}));
    CHECK(status.exit_code() == 0);
    CHECK(status.output().find("\"status\": \"running\"") != std::string::npos);
  }
  {
    Program wrong(example({path, "device_del", R"({"id": "nobody"})"}));
    CHECK(wrong.exit_code() == 1);
    CHECK(wrong.output().find("nobody") != std::string::npos);
  }
  Program watch(example({"--trace", path}));
  REQUIRE(watch.says(name_of_qemu()));
  qemu.signal(SIGTERM);
  CHECK(watch.exit_code() == 0);
  CHECK(watch.output().find("SHUTDOWN {\"guest\":false,\"reason\":\"host-signal\"}") !=
        std::string::npos);
  CHECK(watch.output().find("QEMU was ended by a signal from outside") != std::string::npos);
  CHECK(watch.output().find("> {\"execute\":\"qmp_capabilities\"") != std::string::npos);
  {
    Program nobody(example({}));
    CHECK(nobody.exit_code() == 2);
  }
}
