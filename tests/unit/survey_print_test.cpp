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

Host look(const PciTree& built) {
  const base::Tree tree = built.tree();
  Reader reader(tree);
  return look_at_host(reader);
}

std::string text_of(const PciTree& built) {
  return to_text(look(built), some_names());
}

TEST_CASE("host: the text and the data of a laptop are those on record", "[host]") {
  PciTree built;
  add_laptop(built);
  const Host host = look(built);
  tests::check_golden("host/laptop.txt", to_text(host, some_names()));
  tests::check_golden("host/laptop.json", to_json(host, some_names()).dump(2) + "\n");
  tests::check_golden("host/laptop-no-names.txt", to_text(host, no_names()));
}

TEST_CASE("host: without an IOMMU the text says what to do", "[host]") {
  PciTree built;
  add_laptop(built, false);
  tests::check_golden("host/laptop-no-iommu.txt", text_of(built));
  CHECK(to_json(look(built), no_names())["iommu"] == false);
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
  Host host = look(built);
  host.unseen = {"/sys/\x1b[2J"};
  host.pci.functions[0].driver = "\x1b[2J";
  const std::string text = to_text(host, some_names());
  CHECK(text.find('\x1b') == std::string::npos);
  CHECK(text.find("  /sys/\\x1b[2J\n") != std::string::npos);
}

TEST_CASE("host: amounts are given as people give them", "[host]") {
  using base::ByteSize;
  CHECK(about(ByteSize{0}) == "0K");
  CHECK(about(ByteSize{4096}) == "4K");
  CHECK(about(ByteSize{base::kGiB}) == "1G");
  CHECK(about(ByteSize{1536 * base::kMiB}) == "1.5G");
  CHECK(about(ByteSize{1023 * base::kMiB}) == "1023M");
  CHECK(about(ByteSize{32 * 1024 * base::kGiB}) == "32T");
  CHECK(about(ByteSize{UINT64_MAX}) == "15.9E");
}

TEST_CASE("host: an IOMMU that is hidden is not said to be off", "[host]") {
  Host host;
  host.pci.unseen = {"/sys/kernel/iommu_groups: Permission denied"};
  CHECK(to_text(host, no_names()).starts_with("IOMMU: not seen\n"));
  CHECK(host.pci.iommu_advice().empty());
  CHECK(to_json(host, no_names())["iommu"].is_null());
  host.pci.iommu = true;
  CHECK(to_text(host, no_names()).starts_with("IOMMU: on\n"));
}

TEST_CASE("host: a machine without PCI devices is told as such", "[host]") {
  const PciTree built;
  CHECK(text_of(built).find("\nno PCI devices\n") != std::string::npos);
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
