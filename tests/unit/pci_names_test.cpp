#include "launcher/survey/pci_names.hpp"

#include <sys/stat.h>

#include <string>

#include "tests/support/catch.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::launcher::survey {
namespace {

constexpr const char* kIds =
    "# a comment\n"
    "10de  NVIDIA Corporation\n"
    "\t1b80  GP104 [GeForce GTX 1080]\n"
    "8086  Intel\x1b[31m Corporation\n"
    "C 03  Display controller\n"
    "\t00  VGA compatible controller\n";

TEST_CASE("pci names: vendor, device and class have the file's names", "[pci]") {
  const tests::Folder folder;
  const PciNames names(folder.write("pci.ids", kIds));
  CHECK(names.vendor(0x10de) == "NVIDIA Corporation");
  CHECK(names.device(0x10de, 0x1b80) == "GP104 [GeForce GTX 1080]");
  CHECK(names.device_class(0x0300) == "VGA compatible controller");
}

TEST_CASE("pci names: an unknown subclass has its class's name", "[pci]") {
  const tests::Folder folder;
  const PciNames names(folder.write("pci.ids", kIds));
  CHECK(names.device_class(0x0380) == "Display controller");
}

TEST_CASE("pci names: what the file does not know has no name", "[pci]") {
  const tests::Folder folder;
  const PciNames names(folder.write("pci.ids", kIds));
  CHECK(names.vendor(0x1002) == std::nullopt);
  CHECK(names.device(0x10de, 0x1b81) == std::nullopt);
  CHECK(names.device(0x1002, 0x1b80) == std::nullopt);
  CHECK(names.device_class(0x0200) == std::nullopt);
}

TEST_CASE("pci names: a name cannot write to a terminal", "[pci]") {
  const tests::Folder folder;
  const PciNames names(folder.write("pci.ids", kIds));
  CHECK(names.vendor(0x8086) == "Intel\\x1b[31m Corporation");
}

TEST_CASE("pci names: without the file, or with another, nothing has a name and nothing fails",
          "[pci]") {
  const tests::Folder folder;
  for (const std::string& file : {folder.file("none"),
                                  folder.path(),
                                  folder.write("empty", ""),
                                  folder.write("text", "no ids\n\tat all\n"),
                                  folder.write("cut", std::string(kIds) + "\t\t\tx"),
                                  folder.write("long", "10de  " + std::string(5000, 'x') + "\n")}) {
    INFO(file);
    const PciNames names(file);
    CHECK(names.vendor(0x10de) == std::nullopt);
    CHECK(names.device(0x10de, 0x1b80) == std::nullopt);
    CHECK(names.device_class(0x0300) == std::nullopt);
  }
}

TEST_CASE("pci names: this machine's file knows the large vendors", "[pci]") {
  const PciNames names;
  CHECK(names.vendor(0x8086) == "Intel Corporation");
  CHECK(names.device_class(0x0604) == "PCI bridge");
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
