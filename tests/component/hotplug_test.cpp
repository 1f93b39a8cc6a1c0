// What a config declares under "hotplug" has room in a QEMU that is confined, and nothing else has.

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "base/file.hpp"
#include "tests/component/taken_over.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

Json command(const std::string& name, const Json& arguments) {
  return {{"execute", name}, {"arguments", arguments}};
}

/// QEMU's words about an object that is made at a start alone; "" if it made it.
std::string try_memory(TakenOver& vm, const std::string& id) {
  const Json answer = vm.ask(
      command("object-add", {{"qom-type", "memory-backend-memfd"}, {"id", id}, {"size", 4096}}));
  return answer.value(Json::json_pointer("/error/desc"), "");
}

bool is_served(TakenOver& vm, bool open) {
  const auto reply = vm.guardian().ask(guardian::Request(guardian::FilterPhase{open}));
  return reply && std::holds_alternative<guardian::StatusReply>(*reply);
}

/// Types it at the guest's shell again and again until the shell says the other.
bool guest_says(const TakenOver& vm, const std::string& line, const std::string& wanted) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(90);
  std::string said;
  while (said.find(wanted) == std::string::npos && std::chrono::steady_clock::now() < deadline) {
    base::write_all(vm.serial(), line + "\n", "the shell's input");
    const auto pause = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    while (base::wait_readable(vm.serial(), pause)) {
      std::array<char, 4096> piece{};
      const ssize_t got = ::read(vm.serial(), piece.data(), piece.size());
      if (got <= 0) {
        return false;
      }
      said.append(piece.data(), static_cast<std::size_t>(got));
    }
  }
  INFO(said);
  CHECK(said.find(wanted) != std::string::npos);
  return said.find(wanted) != std::string::npos;
}

}  // namespace

TEST_CASE("hotplug: the calls of a start are refused, and allowed while something is plugged in") {
  if (skipped_without_root()) {
    return;
  }
  TakenOver vm(Json{{"hotplug", {"disk"}}});
  CHECK(try_memory(vm, "a").find("not permitted") != std::string::npos);
  CHECK(is_served(vm, true));
  CHECK(try_memory(vm, "b").empty());
  CHECK(is_served(vm, false));
  CHECK(try_memory(vm, "c").find("not permitted") != std::string::npos);
  CHECK(vm.guardian().refused() == std::vector<std::string>{"memfd_create"});
  // Nobody need close it.
  CHECK(is_served(vm, true));
  std::this_thread::sleep_for(plan::kHotplugLimit);
  CHECK(try_memory(vm, "d").find("not permitted") != std::string::npos);
}

TEST_CASE("hotplug: a plan without it has no such while") {
  if (skipped_without_root()) {
    return;
  }
  TakenOver vm;
  CHECK_FALSE(is_served(vm, true));
}

TEST_CASE("hotplug: a disk that a running guest is given by descriptor is there, and goes again") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  const std::string image =
      folder.write("disk.img", std::string(std::size_t{16} << 20U, '\0'), 0600);
  for (const char* machine : {"q35", "pc"}) {
    INFO(machine);
    Json config = guest_config("demo.shell");
    config["name"] = own_vm();
    config["accel"] = "tcg";
    config["machine"] = machine;
    config["hotplug"] = {"disk"};
    TakenOver vm(config);
    REQUIRE(guest_says(vm, "echo $((40 + 2))", "42"));
    REQUIRE(is_served(vm, true));
    const base::UniqueFd file = base::open_file(image, O_RDWR);
    REQUIRE(vm.ask(command("add-fd", {{"fdset-id", 900}}), {file.get()}).contains("return"));
    REQUIRE(vm.ask(command("blockdev-add",
                           {{"driver", "raw"},
                            {"node-name", "late"},
                            {"file", {{"driver", "file"}, {"filename", "/dev/fdset/900"}}}}))
                .contains("return"));
    Json device = {{"driver", "virtio-blk-pci"}, {"id", "late-device"}, {"drive", "late"}};
    if (machine == std::string("q35")) {
      device["bus"] = "hotplug0";
    }
    const Json added = vm.ask(command("device_add", device));
    INFO(added);
    REQUIRE(added.contains("return"));
    REQUIRE(is_served(vm, false));
    REQUIRE(guest_says(vm, "test -b /dev/vda && echo $((6 * 9))", "54"));
    REQUIRE(guest_says(
        vm, "echo text | dd of=/dev/vda 2>/dev/null; sync; head -c 4 /dev/vda; echo 7", "text7"));
    REQUIRE(vm.ask(command("device_del", {{"id", "late-device"}})).contains("return"));
    CHECK(guest_says(vm, "ls /sys/block/vda || echo $((9 * 9))", "81"));
    CHECK(vm.guardian().refused().empty());
  }
  std::array<char, 5> head{};
  REQUIRE(::pread(base::open_file(image, O_RDONLY).get(), head.data(), head.size(), 0) == 5);
  CHECK(std::string(head.data(), head.size()) == "text\n");
}
