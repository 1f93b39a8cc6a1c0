#include "launcher/survey/pci.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using base::parse_pci_address;
using base::PciAddress;
using tests::PciTree;
using tests::refusal;

PciAddress at(const std::string& text) {
  return parse_pci_address(text).value();
}

std::vector<std::string> addresses(const std::vector<const PciFunction*>& functions) {
  std::vector<std::string> found;
  for (const PciFunction* function : functions) {
    found.push_back(to_string(function->address));
  }
  return found;
}

TEST_CASE("pci: a function is what its folder says", "[pci]") {
  PciTree built;
  built.add("0000:00:01.0", {.class_code = 0x060400, .driver = "pcieport", .group = 1});
  built.add("0000:01:00.0",
            {.vendor = 0x10de,
             .device = 0x1b80,
             .class_code = 0x030000,
             .revision = 0xa1,
             .driver = "vfio-pci",
             .group = 1,
             .reset = "flr bus",
             .bridge = "0000:00:01.0",
             .boot_vga = true});
  const Pci pci = look_at_pci(built.tree());
  REQUIRE(pci.functions.size() == 2);
  const PciFunction expected = {.address = at("0000:01:00.0"),
                                .vendor = 0x10de,
                                .device = 0x1b80,
                                .class_code = 0x030000,
                                .revision = 0xa1,
                                .driver = "vfio-pci",
                                .iommu_group = 1,
                                .bridge = at("0000:00:01.0"),
                                .reset_methods = {"flr", "bus"},
                                .boot_vga = true,
                                .physical = {},
                                .numa_node = {},
                                .bars = {}};
  CHECK(pci.functions[1] == expected);
  CHECK(pci.functions[0].is_bridge());
  CHECK_FALSE(pci.functions[1].is_bridge());
  CHECK(pci.iommu);
  CHECK(pci.unseen.empty());
}

TEST_CASE("pci: what a function lacks is not there", "[pci]") {
  PciTree built;
  built.add("0000:00:1f.0", {.vendor = 0x8086, .device = 0xa30d, .class_code = 0x060100});
  const Pci pci = look_at_pci(built.tree());
  PciFunction expected;
  expected.address = at("0000:00:1f.0");
  expected.vendor = 0x8086;
  expected.device = 0xa30d;
  expected.class_code = 0x060100;
  REQUIRE(pci.functions.size() == 1);
  CHECK(pci.functions[0] == expected);
  CHECK_FALSE(pci.iommu);
}

TEST_CASE("pci: functions are in the order of their addresses, also in high domains", "[pci]") {
  PciTree built;
  for (const char* address : {"10000:e0:06.0",
                              "2000:00:00.0",
                              "0000:0a:00.0",
                              "0001:00:00.0",
                              "0000:02:00.1",
                              "0000:02:00.0"}) {
    built.add(address, {});
  }
  std::vector<std::string> found;
  for (const PciFunction& function : look_at_pci(built.tree()).functions) {
    found.push_back(to_string(function.address));
    CHECK(function.bridge == std::nullopt);
  }
  CHECK(found == std::vector<std::string>{"0000:02:00.0",
                                          "0000:02:00.1",
                                          "0000:0a:00.0",
                                          "0001:00:00.0",
                                          "2000:00:00.0",
                                          "10000:e0:06.0"});
}

TEST_CASE("pci: a root bus below a device has no bridge above it", "[pci]") {
  PciTree built;
  built.add("0000:00:0e.0", {.driver = "vmd"});
  built.write(built.device("0000:00:0e.0") + "/pci10000:e0/10000:e0:06.0/vendor", "0x8086\n");
  built.add("10000:e0:06.0", {});
  const std::string inside = built.device("0000:00:0e.0") + "/pci10000:e0/10000:e0:06.0";
  for (const char* id : {"vendor", "device"}) {
    built.write(inside + "/" + id, "0x8086\n");
  }
  built.write(inside + "/class", "0x060400\n");
  built.write(inside + "/revision", "0x00\n");
  built.link("/sys/bus/pci/devices/10000:e0:06.0", "../../../.." + inside);
  const Pci pci = look_at_pci(built.tree());
  REQUIRE(pci.find(at("10000:e0:06.0")) != nullptr);
  CHECK(pci.find(at("10000:e0:06.0"))->bridge == std::nullopt);
}

TEST_CASE("pci: a laptop's groups and bridges are found", "[pci]") {
  PciTree built;
  add_laptop(built);
  const Pci pci = look_at_pci(built.tree());
  CHECK(pci.functions.size() == 10);
  CHECK(addresses(pci.group(2)) ==
        std::vector<std::string>{"0000:00:01.0", "0000:01:00.0", "0000:01:00.1"});
  CHECK(addresses(pci.group(11)) ==
        std::vector<std::string>{"0000:00:1f.0", "0000:00:1f.3", "0000:00:1f.4"});
  CHECK(pci.group(3).empty());
  CHECK(pci.find(at("0000:02:00.0"))->bridge == at("0000:00:1c.0"));
  CHECK(pci.find(at("0000:03:00.0")) == nullptr);
  CHECK(pci.find(at("0000:00:02.0"))->boot_vga);
  CHECK_FALSE(pci.find(at("0000:01:00.0"))->boot_vga);
}

TEST_CASE("pci: without an IOMMU there are no groups", "[pci]") {
  PciTree built;
  add_laptop(built, false);
  const Pci pci = look_at_pci(built.tree());
  CHECK_FALSE(pci.iommu);
  CHECK(std::none_of(pci.functions.begin(), pci.functions.end(), [](const PciFunction& function) {
    return function.iommu_group.has_value();
  }));
}

TEST_CASE("pci: a group that vfio made up protects nothing and is none", "[pci]") {
  PciTree built;
  built.add("0000:00:03.0", {.driver = "vfio-pci", .group = 0});
  built.write("/sys/kernel/iommu_groups/0/name", "vfio-noiommu\n");
  const Pci pci = look_at_pci(built.tree());
  CHECK_FALSE(pci.iommu);
  CHECK(pci.functions.at(0).iommu_group == std::nullopt);
}

TEST_CASE("pci: a function's node, windows and virtual functions are what its folder says",
          "[pci]") {
  PciTree built;
  built.add("0000:01:00.0", {});
  const std::string folder = built.device("0000:01:00.0");
  built.write(folder + "/numa_node", "1\n");
  built.write(folder + "/sriov_totalvfs", "63\n");
  built.write(folder + "/sriov_numvfs", "2\n");
  built.write(folder + "/resource",
              "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n"
              "0x0000004000000000 0x000000400fffffff 0x000000000014220c\n"
              "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
              "0x0000000000000000 0xffffffffffffffff 0x0000000000040200\n"
              "0x0000000000000000 0xffffffffffffffff 0x0000000000040200\n"
              "0x000000000000e000 0x000000000000e07f 0x0000000000040101\n"
              "0x00000000f7000000 0x00000000f707ffff 0x0000000000046200\n");
  built.write(folder + "/resource1_resize", "0000000000000340\n");
  built.add("0000:01:10.0", {});
  built.link(built.device("0000:01:10.0") + "/physfn", "../0000:01:00.0");
  const base::Tree tree = built.tree();
  Reader reader(tree);
  const Pci pci = look_at_pci(reader, Windows::read);
  CHECK(look_at_pci(tree).functions.at(0).bars.empty());
  REQUIRE(pci.functions.size() == 2);
  const PciFunction& card = pci.functions[0];
  CHECK(card.numa_node == 1U);
  CHECK(card.virtual_total == 63);
  CHECK(card.virtual_count == 2);
  CHECK_FALSE(card.is_virtual);
  using base::ByteSize;
  const std::vector<Bar> expected = {
      {0, 0xf6000000, ByteSize{16 * base::kMiB}, true, false, false, {}},
      {1,
       0x4000000000,
       ByteSize{256 * base::kMiB},
       true,
       true,
       true,
       {ByteSize{64 * base::kMiB}, ByteSize{256 * base::kMiB}, ByteSize{512 * base::kMiB}}},
      {5, 0xe000, ByteSize{128}, false, false, false, {}}};
  CHECK(card.bars == expected);
  CHECK(pci.functions[1].is_virtual);
  CHECK(pci.functions[1].physical == at("0000:01:00.0"));
  CHECK(pci.functions[1].numa_node == std::nullopt);
}

TEST_CASE("pci: a driver's name may hold a space, as a few do", "[pci]") {
  PciTree built;
  built.add("0000:00:03.0", {.driver = "budget_ci dvb"});
  CHECK(look_at_pci(built.tree()).functions.at(0).driver == "budget_ci dvb");
}

TEST_CASE("pci: a function whose resets were turned off has none", "[pci]") {
  PciTree built;
  built.add("0000:00:03.0", {});
  built.write(built.device("0000:00:03.0") + "/reset_method", "");
  CHECK(look_at_pci(built.tree()).functions.at(0).reset_methods.empty());
}

TEST_CASE("pci: a tree without PCI has no functions", "[pci]") {
  const tests::Folder folder;
  CHECK(look_at_pci(base::Tree(folder.path())) == Pci{});
}

TEST_CASE("pci: this machine's own devices are found", "[pci]") {
  const base::Tree host("");
  CHECK(look_at_pci(host).functions.size() == host.list("/sys/bus/pci/devices").size());
}

TEST_CASE("pci: a bridge is what has buses behind it, and a host bridge without a driver",
          "[pci]") {
  const auto function = [](std::uint32_t code, std::optional<std::string> driver) {
    PciFunction one;
    one.class_code = code;
    one.driver = std::move(driver);
    return one;
  };
  for (const std::uint32_t code : {0x060400U, 0x060700U, 0x060940U}) {
    CHECK(function(code, "pcieport").is_bridge());
    CHECK(function(code, {}).is_fabric());
  }
  CHECK(function(0x060000, {}).is_bridge());
  CHECK_FALSE(function(0x060000, "amd64_edac").is_bridge());
  CHECK_FALSE(function(0x060100, "lpc_ich").is_bridge());
  CHECK(function(0x060100, "lpc_ich").is_fabric());
  CHECK_FALSE(function(0x068000, "nvidia-nvswitch").is_fabric());
  CHECK_FALSE(function(0x030000, {}).is_fabric());
}

TEST_CASE("pci: what can be a driver's name", "[pci]") {
  for (const char* name : {"vfio-pci", "budget_ci dvb", "a", "snd.x+1,2", "(null)"}) {
    INFO(name);
    CHECK(is_driver_name(name));
  }
  for (const std::string& name : {std::string(),
                                  std::string("."),
                                  std::string(".."),
                                  std::string("a/b"),
                                  std::string(" a"),
                                  std::string("a "),
                                  std::string("a\n"),
                                  std::string("\x7f"),
                                  std::string("\xc3\xa9"),
                                  std::string(256, 'a')}) {
    INFO(name);
    CHECK_FALSE(is_driver_name(name));
  }
}

// ---- hostile trees

/// The refusal of a good tree after a change, from behind "Cannot take ROOT" to the command.
std::string refusal_after(const std::function<void(PciTree&, const std::string&)>& change) {
  PciTree built;
  built.add("0000:00:01.0", {.class_code = 0x060400});
  built.add("0000:01:00.0",
            {.driver = "nouveau", .group = 1, .reset = "bus", .bridge = "0000:00:01.0"});
  change(built, built.device("0000:01:00.0"));
  const base::Tree tree = built.tree();
  Reader reader(tree);
  const std::string text = refusal([&] { static_cast<void>(look_at_pci(reader, Windows::read)); });
  const std::string start = "10: Cannot take " + built.root();
  const std::size_t command = text.rfind("; type: ls -ld ");
  return text.starts_with(start) && command != std::string::npos
             ? text.substr(start.size(), command - start.size())
             : text;
}

std::string refusal_of(const std::string& attribute, const std::string& content) {
  return refusal_after([&](PciTree& built, const std::string& device) {
    built.write(device + "/" + attribute, content);
  });
}

constexpr const char* kDevice = "/sys/bus/pci/devices/0000:01:00.0";

TEST_CASE("hostile pci tree: names that are no PCI address are refused", "[pci]") {
  for (const std::string name :
       {"0000:01:00.8", "01:00.0", "0000:01:00.0 ", "0000:01:0A.0", "00000:01:00.0", "x", "..."}) {
    INFO(name);
    CHECK(refusal_after([&](PciTree& built, const std::string&) {
            built.link("/sys/bus/pci/devices/" + name, "../../../devices/x");
          }) == "/sys/bus/pci/devices/" + name + " for the kernel's: its name is no PCI address");
  }
  CHECK(refusal_after([&](PciTree& built, const std::string&) {
          built.folder("/sys/bus/pci/devices/\x1b[2J");
        }) == "/sys/bus/pci/devices/\\x1b[2J for the kernel's: its name is no PCI address");
}

TEST_CASE("hostile pci tree: ids that are not the kernel's hexadecimal are refused", "[pci]") {
  struct Row {
    const char* attribute;
    const char* content;
    int digits;
    const char* shown;
  };
  for (const Row& row : {Row{"vendor", "10de\n", 4, "10de"},
                         Row{"vendor", "zz10de\n", 4, "zz10de"},
                         Row{"vendor", "0x10d\n", 4, "0x10d"},
                         Row{"vendor", "0x10deg\n", 4, "0x10deg"},
                         Row{"vendor", "0x010de\n", 4, "0x010de"},
                         Row{"vendor", "0x-10d\n", 4, "0x-10d"},
                         Row{"vendor", "", 4, ""},
                         Row{"vendor", "0x10de\n\n", 4, "0x10de\\x0a"},
                         Row{"device", "0x 10d\n", 4, "0x 10d"},
                         Row{"class", "0x0300\n", 6, "0x0300"},
                         Row{"class", "0x1030000\n", 6, "0x1030000"},
                         Row{"revision", "0x\x1b[\n", 2, "0x\\x1b["},
                         Row{"revision", "0x100\n", 2, "0x100"}}) {
    INFO(row.attribute << " " << row.content);
    CHECK(refusal_of(row.attribute, row.content) ==
          std::string(kDevice) + "/" + row.attribute + " for the kernel's: expected 0x and " +
              std::to_string(row.digits) + " hexadecimal digits, found \"" + row.shown + "\"");
  }
}

TEST_CASE("hostile pci tree: a long text is shown only in part", "[pci]") {
  const std::string text = refusal_of("vendor", std::string(100000, 'x'));
  CHECK(text.size() < 300);
  CHECK(text.ends_with("xxx…\""));
}

TEST_CASE("hostile pci tree: a missing id is refused", "[pci]") {
  CHECK(refusal_after([](PciTree& built, const std::string& device) {
          built.remove(device + "/class");
        }) == std::string(kDevice) + " for the kernel's: it has no class");
}

TEST_CASE("hostile pci tree: attributes that are no small files are refused, and none hangs",
          "[pci]") {
  for (const std::string name : {"vendor", "reset_method", "boot_vga"}) {
    INFO(name);
    const std::string expected =
        kDevice + ("/" + name) + " for the kernel's: it cannot be read as a small file";
    CHECK(refusal_after([&](PciTree& built, const std::string& device) {
            built.fifo(device + "/" + name);
          }) == expected);
    CHECK(refusal_after([&](PciTree& built, const std::string& device) {
            built.remove(device + "/" + name);
            built.folder(device + "/" + name);
          }) == expected);
    CHECK(refusal_after([&](PciTree& built, const std::string& device) {
            built.write(device + "/" + name, "");
            REQUIRE(::truncate(built.path_of(device + "/" + name).c_str(), off_t{1} << 40) == 0);
          }) == expected);
  }
}

TEST_CASE("hostile pci tree: other words than the kernel's are refused", "[pci]") {
  CHECK(refusal_of("reset_method", "flr  bus\n") ==
        std::string(kDevice) +
            "/reset_method for the kernel's: expected names of methods, found \"flr  bus\"");
  CHECK(refusal_of("reset_method", "flr \x1b]0;x\n") ==
        std::string(kDevice) +
            "/reset_method for the kernel's: expected names of methods, found "
            "\"flr \\x1b]0;x\"");
  CHECK(refusal_of("boot_vga", "2\n") ==
        std::string(kDevice) + "/boot_vga for the kernel's: expected 0 or 1, found \"2\"");
  for (const std::string node : {"-2", "x", ""}) {
    CHECK(refusal_of("numa_node", node + "\n") ==
          std::string(kDevice) +
              "/numa_node for the kernel's: expected a node's number or -1, found \"" + node +
              "\"");
  }
  for (const std::string name : {"sriov_totalvfs", "sriov_numvfs"}) {
    CHECK(refusal_of(name, "many\n") ==
          kDevice + ("/" + name) + " for the kernel's: expected a number, found \"many\"");
  }
}

TEST_CASE("hostile pci tree: windows that no kernel prints are refused", "[pci]") {
  for (const std::string line :
       {"0x0 0x1", "0 1 2", "0x0 0x1 0x2 0x3", "0x0 0x1 0xg", "0x10000000000000000 0x0 0x0", " "}) {
    INFO(line);
    CHECK(refusal_of("resource", line + "\n") ==
          std::string(kDevice) +
              "/resource for the kernel's: expected lines of start, end and flags, found \"" +
              line + "\"");
  }
  CHECK(refusal_after([](PciTree& built, const std::string& device) {
          built.write(device + "/resource", "0x0 0xfff 0x200\n");
          built.write(device + "/resource0_resize", "all\n");
        }) == std::string(kDevice) +
                  "/resource0_resize for the kernel's: expected a hexadecimal mask, found \"all\"");
}

TEST_CASE("hostile pci tree: a device's link must lead to its own folder", "[pci]") {
  struct Row {
    const char* target;
    const char* problem;
  };
  for (const Row& row :
       {Row{"../../../devices/pci0000:00/0000:00:01.0",
            "it leads to \"/sys/devices/pci0000:00/0000:00:01.0\""},
        Row{"/etc/passwd", "it leads nowhere"},
        Row{"../../../../../../../../etc/passwd", "it leads nowhere"},
        Row{"0000:01:00.0", "it leads nowhere"},
        Row{"/sys", "it leads to \"/sys\""},
        Row{"/", "it leads to \"/\""},
        Row{"/elsewhere/0000:01:00.0", "it leads to \"/elsewhere/0000:01:00.0\""}}) {
    INFO(row.target);
    CHECK(refusal_after([&](PciTree& built, const std::string&) {
            built.folder("/elsewhere/0000:01:00.0");
            built.link(kDevice, row.target);
          }) == kDevice + (" for the kernel's: " + std::string(row.problem)));
  }
}

TEST_CASE("hostile pci tree: a device that is no link is refused", "[pci]") {
  CHECK(refusal_after([](PciTree& built, const std::string&) { built.write(kDevice, ""); }) ==
        kDevice + std::string(" for the kernel's: it leads to \"") + kDevice + "\"");
  CHECK(refusal_after([](PciTree& built, const std::string&) {
          built.fifo(kDevice);
        }).ends_with("\""));
}

TEST_CASE("hostile pci tree: nobody who follows the bridges goes round in circles", "[pci]") {
  // Each of the two claims to be below the other.
  CHECK(refusal_after([](PciTree& built, const std::string&) {
          const std::string a = "/sys/devices/0000:05:00.0/0000:06:00.0";
          const std::string b = "/sys/devices/0000:06:00.0/0000:05:00.0";
          built.folder(a);
          built.folder(b);
          built.link("/sys/bus/pci/devices/0000:06:00.0", a);
          built.link("/sys/bus/pci/devices/0000:05:00.0", b);
        }) ==
        "/sys/bus/pci/devices/0000:05:00.0 for the kernel's: it is below "
        "\"/sys/devices/0000:06:00.0\", which is no PCI device");
  CHECK(refusal_after([](PciTree& built, const std::string&) {
          const std::string self = "/sys/devices/0000:05:00.0/0000:05:00.0";
          built.folder(self);
          built.link("/sys/bus/pci/devices/0000:05:00.0", self);
        }).find("which is no PCI device") != std::string::npos);
}

TEST_CASE("hostile pci tree: a driver is a link to one of the bus's drivers", "[pci]") {
  const auto leads = [](const std::string& where) {
    return std::string(kDevice) + "/driver for the kernel's: it leads to \"" + where + "\"";
  };
  const auto with_driver = [](const std::string& folder) {
    return refusal_after([&](PciTree& built, const std::string& device) {
      built.folder(folder);
      built.link(device + "/driver", folder);
    });
  };
  CHECK(with_driver("/sys/bus/pci/drivers/a b\x1b[m") == leads("/sys/bus/pci/drivers/a b\\x1b[m"));
  CHECK(with_driver("/sys/bus/pci/drivers/a\tb") == leads("/sys/bus/pci/drivers/a\\x09b"));
  CHECK(with_driver("/sys/bus/pci/drivers/ b") == leads("/sys/bus/pci/drivers/ b"));
  CHECK(with_driver("/sys/bus/pci/drivers/nouveau/bind") ==
        leads("/sys/bus/pci/drivers/nouveau/bind"));
  CHECK(with_driver("/sys/bus/usb/drivers/nouveau") == leads("/sys/bus/usb/drivers/nouveau"));
  CHECK(with_driver("/sys/bus/pci/drivers/..") == leads("/sys/bus/pci"));
  CHECK(refusal_after([](PciTree& built, const std::string& device) {
          built.link(device + "/driver", "/none");
        }) == kDevice + std::string("/driver for the kernel's: it leads nowhere"));
  CHECK(refusal_after([](PciTree& built, const std::string& device) {
          built.write(device + "/driver", "nouveau");
        }) == leads("/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/driver"));
}

TEST_CASE("hostile pci tree: a group is a link to a numbered one", "[pci]") {
  const auto with_group = [](const std::string& folder) {
    return refusal_after([&](PciTree& built, const std::string& device) {
      built.folder(folder);
      built.link(device + "/iommu_group", folder);
    });
  };
  const auto leads = [](const std::string& where) {
    return std::string(kDevice) + "/iommu_group for the kernel's: it leads to \"" + where + "\"";
  };
  CHECK(with_group("/sys/kernel/elsewhere/1") == leads("/sys/kernel/elsewhere/1"));
  CHECK(with_group("/sys/kernel/iommu_groups/1/devices") ==
        leads("/sys/kernel/iommu_groups/1/devices"));
  for (const std::string name : {"one", "01", "-1", "99999999999", "1 "}) {
    INFO(name);
    const std::string folder = "/sys/kernel/iommu_groups/" + name;
    CHECK(with_group(folder) == folder + " for the kernel's: a group's name is a number");
  }
}

TEST_CASE("pci: a function that vanishes is left out", "[pci]") {
  PciTree built;
  built.add("0000:00:01.0", {});
  built.add("0000:00:02.0", {});
  CHECK(look_at_pci(built.tree()).functions.size() == 2);
  built.remove("/sys/bus/pci/devices/0000:00:02.0");
  CHECK(look_at_pci(built.tree()).functions.size() == 1);
}

TEST_CASE("pci: functions that come and go meanwhile are found whole or not at all", "[pci]") {
  PciTree built;
  built.add("0000:00:01.0", {.driver = "pcieport", .group = 1});
  built.add("0000:00:02.0", {.driver = "nouveau", .group = 2});
  const PciFunction whole = look_at_pci(built.tree()).functions.at(1);
  const std::string text = tests::in_child([&] {
    const pid_t parent = ::getpid();
    const pid_t other = ::fork();
    if (other == 0) {
      const std::string link = built.path_of("/sys/bus/pci/devices/0000:00:02.0");
      const std::string aside = built.path_of("/aside");
      while (::getppid() == parent) {
        static_cast<void>(::rename(link.c_str(), aside.c_str()));
        static_cast<void>(::rename(aside.c_str(), link.c_str()));
      }
      ::_exit(0);
    }
    std::set<std::size_t> sizes;
    std::string wrong;
    for (int i = 0; i < 2000; ++i) {
      const std::string refused = refusal([&] {
        const Pci pci = look_at_pci(built.tree());
        sizes.insert(pci.functions.size());
        if (pci.functions.size() == 2 && pci.functions[1] != whole) {
          wrong = "half a function";
        }
      });
      wrong = refused == "nothing" ? wrong : refused;
    }
    static_cast<void>(::kill(other, SIGKILL));
    return wrong + std::to_string(sizes.count(1)) + std::to_string(sizes.count(2));
  });
  CHECK(text == "11");
}

// ---- what is hidden

std::string unseen_by_user(const PciTree& built) {
  return tests::as_user(tests::kUser, [&] {
    const Pci pci = look_at_pci(built.tree());
    return std::to_string(pci.functions.size()) + (pci.iommu ? " iommu\n" : "\n") +
           base::join(pci.unseen, "\n");
  });
}

TEST_CASE("pci: what is hidden from a user is told", "[pci]") {
  if (tests::skipped_without_root()) {
    return;
  }
  PciTree built;
  built.add("0000:00:01.0", {.driver = "pcieport", .group = 1});
  built.add("0000:00:02.0", {.group = 2, .reset = "flr"});
  const std::string device = built.path_of(built.device("0000:00:02.0"));
  const std::string name = "/sys/bus/pci/devices/0000:00:02.0";
  CHECK(unseen_by_user(built) == "2 iommu\n");

  REQUIRE(::chmod((device + "/reset_method").c_str(), 0600) == 0);
  CHECK(unseen_by_user(built) == "2 iommu\n" + name + "/reset_method: Permission denied");
  CHECK(look_at_pci(built.tree()).unseen.empty());

  REQUIRE(::chmod((device + "/vendor").c_str(), 0600) == 0);
  CHECK(unseen_by_user(built) == "1 iommu\n" + name + "/vendor: Permission denied\n" + name +
                                     "/reset_method: Permission denied");

  REQUIRE(::chmod(built.path_of("/sys/kernel/iommu_groups").c_str(), 0700) == 0);
  CHECK(unseen_by_user(built).find("/sys/kernel/iommu_groups: Permission denied") !=
        std::string::npos);
  CHECK(unseen_by_user(built).starts_with("0\n"));

  REQUIRE(::chmod(built.path_of("/sys").c_str(), 0700) == 0);
  CHECK(unseen_by_user(built) ==
        "0\n/sys/bus/pci/devices: Permission denied\n/sys/kernel/iommu_groups: Permission denied");
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
