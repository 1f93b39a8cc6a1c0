#include <string>

#include "base/text.hpp"
#include "launcher/survey/print.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/golden.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using tests::PciTree;

/// Names of some of the laptop's devices; the others are shown by their ids.
PciNames some_names() {
  const tests::Folder folder;
  return PciNames(folder.write("pci.ids",
                               "10de  NVIDIA Corporation\n"
                               "\t1ba1  GP104M [GeForce GTX 1070 Mobile]\n"
                               "8086  Intel Corporation\n"
                               "\t1533  I210 Gigabit Network Connection\n"
                               "C 03  Display controller\n"
                               "\t00  VGA compatible controller\n"
                               "C 06  Bridge\n"
                               "\t04  PCI bridge\n"));
}

PciNames no_names() {
  return PciNames("/nonexistent");
}

std::string text_of(const PciTree& built) {
  return to_text(look_at_pci(built.tree()), some_names());
}

TEST_CASE("host: the text and the data of a laptop are those on record", "[host]") {
  PciTree built;
  add_laptop(built);
  const Pci host = look_at_pci(built.tree());
  tests::check_golden("host/laptop.txt", to_text(host, some_names()));
  tests::check_golden("host/laptop.json", to_json(host, some_names()).dump(2) + "\n");
  tests::check_golden("host/laptop-no-names.txt", to_text(host, no_names()));
}

TEST_CASE("host: without an IOMMU the text says what to do", "[host]") {
  PciTree built;
  add_laptop(built, false);
  tests::check_golden("host/laptop-no-iommu.txt", text_of(built));
  CHECK(to_json(look_at_pci(built.tree()), no_names())["iommu"] == false);
}

TEST_CASE("host: the advice fits the processor", "[host]") {
  PciTree built;
  const auto first_words = [&](const std::string& cpuinfo) {
    built.write("/proc/cpuinfo", cpuinfo);
    std::string words;
    for (const std::string& line : look_at_pci(built.tree()).iommu_advice()) {
      words += line.substr(0, line.find(':')) + " ";
    }
    return words;
  };
  CHECK(first_words("processor\t: 0\nvendor_id\t: GenuineIntel\n") == "Intel ");
  CHECK(first_words("vendor_id\t: AuthenticAMD\nvendor_id\t: GenuineIntel\n") == "AMD ");
  CHECK(first_words("vendor_id\t: HygonGenuine\n") == "AMD ");
  CHECK(first_words("") == "Intel AMD ");
  built.add("0000:00:01.0", {.group = 1});
  CHECK(first_words("vendor_id\t: GenuineIntel\n").empty());
}

TEST_CASE("host: groups are in the order of their numbers, and the rest is at the end", "[host]") {
  PciTree built;
  built.add("0000:00:01.0", {});
  built.add("0000:00:02.0", {.group = 10});
  built.add("0000:00:03.0", {.group = 2});
  const std::string text = text_of(built);
  CHECK(text.find("group 2\n          0000:00:03.0") < text.find("group 10\n"));
  CHECK(text.find("group 10\n          0000:00:02.0") <
        text.find("outside of any group\n          0000:00:01.0"));
  CHECK(text.find("outside of any group\n          0000:00:01.0") != std::string::npos);
}

TEST_CASE("host: nothing in a tree can write to a terminal", "[host]") {
  PciTree built;
  built.add("0000:00:01.0", {});
  built.write("/proc/cpuinfo", "vendor_id\t: \x1b[2J\n");
  Pci host = look_at_pci(built.tree());
  host.unseen = {"/sys/\x1b[2J"};
  host.functions[0].driver = "\x1b[2J";
  const std::string text = to_text(host, some_names());
  CHECK(text.find('\x1b') == std::string::npos);
  CHECK(text.find("  /sys/\\x1b[2J\n") != std::string::npos);
}

TEST_CASE("host: an IOMMU that is hidden is not said to be off", "[host]") {
  Pci host;
  host.unseen = {"/sys/kernel/iommu_groups: Permission denied"};
  CHECK(to_text(host, no_names()).starts_with("IOMMU: not seen\n"));
  CHECK(host.iommu_advice().empty());
  CHECK(to_json(host, no_names())["iommu"].is_null());
  host.iommu = true;
  CHECK(to_text(host, no_names()).starts_with("IOMMU: on\n"));
}

TEST_CASE("host: a machine without PCI devices is told as such", "[host]") {
  const PciTree built;
  CHECK(text_of(built).ends_with("\nno PCI devices\n"));
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
