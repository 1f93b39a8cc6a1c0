#include "tests/support/pci_tree.hpp"

#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>

#include "base/errors.hpp"

namespace vmlaunch::tests {

namespace {

namespace fs = std::filesystem;

std::string hex(unsigned value, int digits) {
  std::array<char, 32> text{};
  static_cast<void>(std::snprintf(text.data(), text.size(), "0x%0*x\n", digits, value));
  return text.data();
}

std::string relative(const std::string& target, const std::string& link) {
  return fs::path(target).lexically_relative(fs::path(link).parent_path());
}

}  // namespace

PciTree::PciTree() {
  folder("/sys/bus/pci/devices");
  folder("/sys/bus/pci/drivers");
  folder("/sys/kernel/iommu_groups");
}

std::string PciTree::make_room(const std::string& path) const {
  std::string real = path_of(path);
  fs::create_directories(fs::path(real).parent_path());
  fs::remove_all(real);
  return real;
}

void PciTree::write(const std::string& path, const std::string& content) const {
  std::ofstream(make_room(path), std::ios::binary) << content;
}

void PciTree::link(const std::string& path, const std::string& target) const {
  fs::create_symlink(target, make_room(path));
}

void PciTree::folder(const std::string& path) const {
  fs::create_directories(path_of(path));
}

void PciTree::fifo(const std::string& path) const {
  base::check(::mkfifo(make_room(path).c_str(), 0644), "make a FIFO");
}

void PciTree::remove(const std::string& path) const {
  fs::remove_all(path_of(path));
}

std::string PciTree::device(const std::string& address) const {
  const fs::path link = path_of("/sys/bus/pci/devices/" + address);
  const fs::path real = (link.parent_path() / fs::read_symlink(link)).lexically_normal();
  return real.string().substr(root().size());
}

void PciTree::add(const std::string& address, const PciParts& parts) {
  const std::string bus = address.substr(0, address.rfind(':'));
  const std::string device =
      (parts.bridge.empty() ? "/sys/devices/pci" + bus : this->device(parts.bridge)) + "/" +
      address;
  parts_[address] = parts;
  remove(device);
  list(address, device);
  write(device + "/vendor", hex(parts.vendor, 4));
  write(device + "/device", hex(parts.device, 4));
  write(device + "/class", hex(parts.class_code, 6));
  write(device + "/revision", hex(parts.revision, 2));
  write(device + "/numa_node", "-1\n");
  write(device + "/d3cold_allowed", "1\n");
  write(device + "/driver_override", "(null)\n");
  write(device + "/power/control", "auto\n");
  if (!parts.reset.empty()) {
    write(device + "/reset_method", parts.reset + "\n");
  }
  if (parts.boot_vga) {
    write(device + "/boot_vga", *parts.boot_vga ? "1\n" : "0\n");
  }
  bind(address, parts.driver);
}

void PciTree::take_away(const std::string& address) {
  const std::string real = device(address);
  fs::rename(path_of(real), away_folder_.file(address));
  remove("/sys/bus/pci/devices/" + address);
  if (const auto group = parts_.at(address).group) {
    remove("/sys/kernel/iommu_groups/" + std::to_string(*group) + "/devices/" + address);
  }
  away_[address] = real;
}

void PciTree::bring_back(const std::set<std::string>& lost) {
  for (const auto& [address, real] : std::exchange(away_, {})) {
    if (lost.contains(address)) {
      continue;
    }
    fs::rename(away_folder_.file(address), path_of(real));
    list(address, real);
    write(real + "/driver_override", "(null)\n");
    write(real + "/power/control", "auto\n");
    write(real + "/d3cold_allowed", "1\n");
    bind(address, parts_.at(address).driver);
  }
}

/// The links that lead to a function's folder.
void PciTree::list(const std::string& address, const std::string& device) const {
  const std::string link_path = "/sys/bus/pci/devices/" + address;
  link(link_path, relative(device, link_path));
  if (const auto number = parts_.at(address).group) {
    const std::string group = "/sys/kernel/iommu_groups/" + std::to_string(*number);
    const std::string member = group + "/devices/" + address;
    write(group + "/type", "DMA-FQ\n");
    link(member, relative(device, member));
    link(device + "/iommu_group", relative(group, device + "/iommu_group"));
  }
}

void PciTree::bind(const std::string& address, const std::string& driver) {
  const std::string path = device(address) + "/driver";
  remove(path);
  if (!driver.empty()) {
    folder("/sys/bus/pci/drivers/" + driver);
    link(path, relative("/sys/bus/pci/drivers/" + driver, path));
  }
}

void add_laptop(PciTree& tree, bool iommu) {
  const auto group = [&](unsigned number) { return iommu ? std::optional(number) : std::nullopt; };
  tree.write("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n");
  tree.add("0000:00:00.0",
           {.device = 0x3ec4, .class_code = 0x060000, .revision = 7, .group = group(1)});
  tree.add("0000:00:01.0",
           {.device = 0x1901,
            .class_code = 0x060400,
            .revision = 7,
            .driver = "pcieport",
            .group = group(2)});
  tree.add("0000:00:02.0",
           {.device = 0x3e9b,
            .class_code = 0x030000,
            .driver = "i915",
            .group = group(0),
            .boot_vga = true});
  tree.add("0000:00:1c.0",
           {.device = 0xa338,
            .class_code = 0x060400,
            .revision = 0xf0,
            .driver = "pcieport",
            .group = group(10)});
  tree.add("0000:00:1f.0",
           {.device = 0xa30d, .class_code = 0x060100, .revision = 0x10, .group = group(11)});
  tree.add("0000:00:1f.3",
           {.device = 0xa348,
            .class_code = 0x040300,
            .revision = 0x10,
            .driver = "snd_hda_intel",
            .group = group(11),
            .reset = "pm"});
  tree.add("0000:00:1f.4",
           {.device = 0xa323,
            .class_code = 0x0c0500,
            .revision = 0x10,
            .driver = "i801_smbus",
            .group = group(11)});
  tree.add("0000:01:00.0",
           {.vendor = 0x10de,
            .device = 0x1ba1,
            .class_code = 0x030000,
            .revision = 0xa1,
            .driver = "nouveau",
            .group = group(2),
            .reset = "bus",
            .bridge = "0000:00:01.0",
            .boot_vga = false});
  tree.add("0000:01:00.1",
           {.vendor = 0x10de,
            .device = 0x10f0,
            .class_code = 0x040300,
            .revision = 0xa1,
            .driver = "snd_hda_intel",
            .group = group(2),
            .bridge = "0000:00:01.0"});
  tree.add("0000:02:00.0",
           {.device = 0x1533,
            .class_code = 0x020000,
            .revision = 3,
            .driver = "igb",
            .group = group(12),
            .reset = "flr pm bus",
            .bridge = "0000:00:1c.0"});
}

}  // namespace vmlaunch::tests
