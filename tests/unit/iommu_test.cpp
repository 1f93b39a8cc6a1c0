#include "launcher/survey/iommu.hpp"

#include <string>
#include <vector>

#include "launcher/survey/pci.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using tests::PciTree;
using Lines = std::vector<std::string>;

constexpr const char* kIntel = "GenuineIntel";
constexpr const char* kAmd = "AuthenticAMD";

Lines advice(const std::string& vendor,
             const std::optional<std::string>& table,
             const std::optional<CommandLine>& words) {
  return IommuSetup{vendor, table, words}.advice();
}

TEST_CASE("iommu: a firmware that shows none is where to turn it on", "[iommu]") {
  CHECK(advice(kIntel, "", CommandLine{"intel_iommu=on"}) ==
        Lines{"Intel: the firmware shows none (no table DMAR): turn on VT-d in the firmware's "
              "setup"});
  CHECK(advice(kAmd, "", CommandLine{}) ==
        Lines{"AMD: the firmware shows none (no table IVRS): turn on AMD-Vi (also called IOMMU) in "
              "the firmware's setup"});
}

TEST_CASE("iommu: a kernel that was not told is told on its command line", "[iommu]") {
  CHECK(advice(kIntel, "DMAR", CommandLine{}) ==
        Lines{"Intel: add intel_iommu=on iommu=pt to the kernel's command line"});
  CHECK(advice(kIntel, "", CommandLine{}) ==
        Lines{"Intel: the firmware shows none (no table DMAR): turn on VT-d in the firmware's "
              "setup, and add intel_iommu=on iommu=pt to the kernel's command line"});
}

TEST_CASE("iommu: words that turn it off are named", "[iommu]") {
  CHECK(advice(kIntel, "DMAR", CommandLine{"intel_iommu=sm_on,on", "iommu=off"}) ==
        Lines{"Intel: take iommu=off from the kernel's command line"});
  CHECK(advice(kAmd, "IVRS", CommandLine{"amd_iommu=off", "iommu=pt,off", "intel_iommu=off"}) ==
        Lines{"AMD: take amd_iommu=off iommu=pt,off from the kernel's command line"});
  CHECK(advice(kIntel, "DMAR", CommandLine{"intel_iommu=off"}) ==
        Lines{"Intel: take intel_iommu=off from the kernel's command line, and add intel_iommu=on "
              "iommu=pt to the kernel's command line"});
}

TEST_CASE("iommu: where firmware and command line have it on, the kernel's log says more",
          "[iommu]") {
  CHECK(advice(kAmd, "IVRS", CommandLine{"iommu=pt"}) ==
        Lines{"AMD: the firmware shows one, and the kernel's command line leaves it on; type: sudo "
              "dmesg | grep -i -e iommu -e IVRS"});
  CHECK(advice(kIntel, "DMAR", CommandLine{"intel_iommu=on"}) ==
        Lines{"Intel: the firmware shows one, and the kernel's command line leaves it on; type: "
              "sudo dmesg | grep -i -e iommu -e DMAR"});
}

TEST_CASE("iommu: what was not seen is asked for", "[iommu]") {
  CHECK(advice(kIntel, {}, {}) ==
        Lines{"Intel: turn on VT-d in the firmware's setup, and add intel_iommu=on iommu=pt to the "
              "kernel's command line, and see that intel_iommu=off is not on the kernel's command "
              "line"});
  CHECK(advice("HygonGenuine", {}, CommandLine{}) ==
        Lines{"AMD: turn on AMD-Vi (also called IOMMU) in the firmware's setup"});
}

TEST_CASE("iommu: the advice is the maker's of the table, else of the processor, else both",
          "[iommu]") {
  const auto makers = [](const std::string& vendor, const std::optional<std::string>& table) {
    std::string words;
    for (const std::string& line : advice(vendor, table, {})) {
      words.append(line.substr(0, line.find(':'))).append(" ");
    }
    return words;
  };
  CHECK(makers(kAmd, "DMAR") == "Intel ");
  CHECK(makers("", "IVRS") == "AMD ");
  CHECK(makers(kIntel, "") == "Intel ");
  CHECK(makers("HygonGenuine", {}) == "AMD ");
  CHECK(makers("", "") == "Intel AMD ");
}

TEST_CASE("iommu: a host's table, maker and command line are found", "[iommu]") {
  PciTree built;
  built.write("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: AuthenticAMD\nvendor_id\t: x\n");
  built.write("/proc/cmdline", "root=/dev/sda iommu=pt\n");
  const auto look = [&] { return look_at_pci(built.tree()).iommu_setup; };
  CHECK(look() == IommuSetup{kAmd, std::nullopt, CommandLine{"iommu=pt"}});
  built.folder("/sys/firmware/acpi/tables");
  CHECK(look().table == "");
  built.write("/sys/firmware/acpi/tables/IVRS", "");
  CHECK(look().table == "IVRS");
}

TEST_CASE("iommu: where it is on there is nothing to do", "[iommu]") {
  PciTree built;
  built.add("0000:00:01.0", {});
  CHECK_FALSE(look_at_pci(built.tree()).iommu_advice().empty());
  built.add("0000:00:01.0", {.group = 1});
  CHECK(look_at_pci(built.tree()).iommu_advice().empty());
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
