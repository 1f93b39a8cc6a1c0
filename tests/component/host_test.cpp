#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <string>

#include "base/tree.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

constexpr const char* kUserNote = "\nseen without root's rights, which nothing of this needs\n";

std::string output_of(const Launch& launch) {
  Program program(launch);
  INFO(program.output());
  CHECK(program.exit_code() == 0);
  return program.output();
}

/// Without how much memory was free just then.
std::string steady(const std::string& output) {
  static const std::regex kText(", [0-9.]+[KMGTPE] (available|free)");
  static const std::regex kData("\"(available|free)\": [0-9]+");
  return std::regex_replace(std::regex_replace(output, kText, ""), kData, "");
}

/// Without the cgroup as well, of which each user has another.
std::string shared(const std::string& output) {
  static const std::regex kText("\n  cgroup2: [^\n]*");
  static const std::regex kData("\"cgroup\": (null|\\{[^}]*\\})");
  return std::regex_replace(std::regex_replace(steady(output), kText, ""), kData, "");
}

/// The text's line of each device says what the data says.
void check_text(const std::string& text, const Json& data) {
  CHECK(text.starts_with(data["iommu"] == true ? "IOMMU: on\n" : "IOMMU: off"));
  std::size_t before = 0;
  for (const Json& device : data["devices"]) {
    INFO(device.dump());
    const std::string address = device["address"];
    const std::size_t start = text.find(" " + address + " ");
    REQUIRE(start != std::string::npos);
    const std::string line = text.substr(start, text.find('\n', start) - start);
    const auto says = [&](const std::string& words) {
      INFO(line << " | " << words);
      CHECK(line.find(words) != std::string::npos);
    };
    const std::string vendor = device["vendor"];
    const std::string number = device["device"];
    const std::string revision = device["revision"];
    says("[" + device["class"].get<std::string>().substr(0, 4) + "]:");
    says("[" + vendor + ":" + number + "] (rev " + revision + ")");
    for (const char* name : {"class_name", "vendor_name", "device_name"}) {
      if (!device[name].is_null()) {
        says(" " + device[name].get<std::string>() + " ");
      }
    }
    says(device["driver"].is_null() ? ", no driver"
                                    : ", driver " + device["driver"].get<std::string>());
    CHECK(
        (text.substr(start - 7, 7) == "[RESET]") ==
        !(device["reset"].is_null() || device["reset"] == "none" || device["reset"] == "blocked"));
    const std::size_t group = text.rfind("\n\n", start);
    CHECK(text.substr(group + 2, text.find('\n', group + 2) - group - 2) ==
          (device["group"].is_null() ? "outside of any group"
                                     : "group " + std::to_string(device["group"].get<unsigned>())));
    if (device["group"].is_null()) {
      CHECK(start > before);
      before = start;
    }
  }
}

}  // namespace

TEST_CASE("host: text and data of this machine tell the same, of every device") {
  const std::string text = output_of(command_of({"host"}));
  const Json data = Json::parse(output_of(command_of({"host", "--json"})));
  CHECK(data["devices"].size() == base::Tree("").list("/sys/bus/pci/devices").size());
  check_text(text, data);
  CHECK(steady(output_of(command_of({"host"}))) == steady(text));
}

TEST_CASE("host: text and data of a recorded laptop tell the same") {
  PciTree built;
  add_laptop(built);
  const std::string text = output_of(command_of({"host", "--tree", built.root()}));
  const Json data = Json::parse(output_of(command_of({"host", "--json", "--tree", built.root()})));
  CHECK(data["devices"].size() == 10);
  check_text(text, data);
  CHECK(text.find(kUserNote) == std::string::npos);
}

TEST_CASE("host: CPUs, memory and kernel of this machine are told in text and data") {
  const std::string text = output_of(command_of({"host"}));
  const Json data = Json::parse(output_of(command_of({"host", "--json"})));
  const auto online = [](const Json& cpu) { return cpu["online"] == true; };
  const Json& list = data["cpus"]["list"];
  const auto count = std::count_if(list.begin(), list.end(), online);
  CHECK(count == ::sysconf(_SC_NPROCESSORS_ONLN));
  CHECK(text.find("\nCPUs: " + std::to_string(count) + " in ") != std::string::npos);
  CHECK(data["memory"]["total"] > 0);
  CHECK(text.find("\nmemory: ") != std::string::npos);
  CHECK(text.find("\nkernel: " + data["kernel"]["release"].get<std::string>() + "\n") !=
        std::string::npos);
}

TEST_CASE("host: another user is told the same as root, and that nothing is missing") {
  if (skipped_without_root()) {
    return;
  }
  const std::string text = shared(output_of(command_of({"host"})));
  const std::string data = shared(output_of(command_of({"host", "--json"})));
  Launch launch = command_of({"host"});
  launch.uid = 12345;
  CHECK(shared(output_of(launch)) == text + kUserNote);
  launch = command_of({"host", "--json"});
  launch.uid = 12345;
  CHECK(shared(output_of(launch)) == data);
  CHECK(shared(output_of(command_of({"--as", "12345", "host"}))) == text + kUserNote);
}

TEST_CASE("host: what is hidden from another user is told") {
  if (skipped_without_root()) {
    return;
  }
  PciTree built;
  add_laptop(built);
  std::filesystem::permissions(built.path_of("/sys"), std::filesystem::perms::owner_all);
  Launch launch = command_of({"host", "--tree", built.root()});
  launch.uid = 12345;
  CHECK(output_of(launch) ==
        "IOMMU: not seen\n\nno PCI devices\n\nCPUs: not seen\n\nmemory: not seen\n\n"
        "kernel: not seen\n  /dev/kvm: not there\n  cgroup2: not there\n\n"
        "not seen; root sees more\n"
        "  /sys/bus/pci/devices: Permission denied\n"
        "  /sys/kernel/iommu_groups: Permission denied\n"
        "  /sys: Permission denied\n");
}

TEST_CASE("host: a record of this machine shows the same elsewhere") {
  const Folder folder;
  const std::string recorded = output_of(command_of({"host", "--record", folder.file("tree")}));
  CHECK(recorded.starts_with("recorded "));
  CHECK(recorded.find(" PCI devices in " + folder.file("tree") + "\n") != std::string::npos);
  const std::string tree = folder.file("tree");
  CHECK(steady(output_of(command_of({"host", "--json", "--tree", tree}))) ==
        steady(output_of(command_of({"host", "--json"}))));
  const std::string text = output_of(command_of({"host", "--tree", tree}));
  CHECK(output_of(command_of({"host"})).starts_with(text.substr(0, text.find("\nmemory: "))));
}

TEST_CASE("host: a record belongs to the person behind sudo") {
  if (skipped_without_root()) {
    return;
  }
  const Folder folder;
  REQUIRE(::chown(folder.path().c_str(), 12345, 12345) == 0);
  Launch launch = command_of({"host", "--record", folder.file("sudo")});
  launch.environment = {"SUDO_UID=12345"};
  output_of(launch);
  output_of(command_of({"--as", "12345", "host", "--record", folder.file("as")}));
  launch = command_of({"host", "--record", folder.file("user")});
  launch.uid = 12345;
  output_of(launch);
  for (const std::string name : {"sudo", "as", "user"}) {
    struct stat info {};
    REQUIRE(::stat(folder.file(name + "/sys/bus/pci/devices").c_str(), &info) == 0);
    CHECK(info.st_uid == 12345);
  }
}

TEST_CASE("host: an output that cannot be written is told") {
  Launch launch = command_of({"-c", "exec " + command_of({}).arguments[0] + " host > /dev/full"});
  launch.arguments[0] = "/bin/sh";
  Program program(launch);
  CHECK(program.exit_code() == 1);
  INFO(program.output());
  CHECK(program.output().find("Cannot write to standard output") != std::string::npos);
}

TEST_CASE("host: bad trees and folders are exit code 10, and nothing of them reaches a terminal") {
  const Folder folder;
  folder.write("file", "");
  PciTree built;
  built.folder("/sys/bus/pci/devices/\x1b[2J");
  for (const auto& [arguments, text] :
       {std::pair(std::vector<std::string>{"host", "--tree", folder.file("none")},
                  "none: No such file or directory"),
        std::pair(std::vector<std::string>{"host", "--tree", folder.file("file")},
                  "file: Not a directory"),
        std::pair(std::vector<std::string>{"host", "--tree", folder.path()},
                  "there is no sys in it"),
        std::pair(std::vector<std::string>{"host", "--tree", built.root()},
                  "/sys/bus/pci/devices/\\x1b[2J for the kernel's: its name is no PCI address"),
        std::pair(std::vector<std::string>{"host", "--json", "--tree", built.root()},
                  "its name is no PCI address"),
        std::pair(std::vector<std::string>{"host", "--record", folder.path()}, "it is not empty"),
        std::pair(
            std::vector<std::string>{
                "host", "--tree", built.root(), "--record", folder.file("new")},
            "its name is no PCI address")}) {
    Program program(command_of(arguments));
    CHECK(program.exit_code(Seconds(10)) == 10);
    INFO(program.output());
    CHECK(program.output().starts_with("vmlaunch: Cannot "));
    CHECK(program.output().find(text) != std::string::npos);
    CHECK(program.output().find('\x1b') == std::string::npos);
  }
  CHECK(folder.names() == std::vector<std::string>{"file"});
  Program both(command_of({"host", "--json", "--record", folder.file("new")}));
  CHECK(both.exit_code() == 2);
}
