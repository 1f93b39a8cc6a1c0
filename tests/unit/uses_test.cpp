#include "launcher/survey/uses.hpp"

#include <string>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using tests::PciTree;

constexpr const char* kNvme = "0000:02:00.0";

/// A laptop, and what hangs below its devices.
struct Host {
  PciTree tree;

  Host() { tests::add_laptop(tree); }

  /// A link of a class or a list to a folder of the tree.
  void link(const std::string& path, const std::string& target) const {
    tree.folder(target);
    tree.link(path, target);
  }

  /// A block device of the function, or of none, with the number `major:minor`.
  std::string disk(const std::string& function,
                   const std::string& name,
                   const std::string& number) const {
    const std::string folder =
        (function.empty() ? "/sys/devices/virtual" : tree.device(function)) + "/block/" + name;
    link("/sys/class/block/" + name, folder);
    link("/sys/dev/block/" + number, folder);
    return folder;
  }

  void nic(const std::string& function, const std::string& name) const {
    link("/sys/class/net/" + name,
         (function.empty() ? "/sys/devices/virtual" : tree.device(function)) + "/net/" + name);
  }

  void keyboard(const std::string& name, const std::string& folder, const std::string& keys) const {
    link("/sys/class/input/" + name, folder + "/input/" + name);
    tree.write(folder + "/input/" + name + "/capabilities/key", keys + "\n");
  }

  [[nodiscard]] Uses uses() const { return look_at_uses(tree.tree()); }
};

/// "0000:02:00.0: nvme0n1 is swap; type: …"
std::vector<std::string> lines_of(const Uses& uses) {
  std::vector<std::string> lines;
  for (const Use& use : uses.uses) {
    lines.push_back(base::to_string(use.place.device) + ": " + use.what + "; " + use.advice);
  }
  return lines;
}

TEST_CASE("uses: a mounted partition, swap and btrfs are found on the disk's controller",
          "[uses]") {
  const Host host;
  host.disk(kNvme, "nvme0n1", "259:0");
  host.disk(kNvme, "nvme0n1p1", "259:1");
  host.disk(kNvme, "nvme0n1p2", "259:2");
  host.disk(kNvme, "nvme0n1p3", "259:3");
  host.tree.write("/proc/self/mountinfo",
                  "20 1 0:5 / /dev rw - devtmpfs udev rw\n"
                  "21 1 259:1 / /my\\040data rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n"
                  "22 1 0:30 / /pool rw - btrfs /dev/nvme0n1p3 rw\n");
  host.tree.write("/proc/swaps",
                  "Filename\t\t\t\tType\t\tSize\n/dev/nvme0n1p2   partition\t1000\n"
                  "/swapfile file 1000\n");
  host.tree.folder("/sys/fs/btrfs/features");
  host.tree.folder("/sys/fs/btrfs/0b1c/devices/nvme0n1p3");
  CHECK(lines_of(host.uses()) ==
        std::vector<std::string>{
            "0000:02:00.0: nvme0n1p1 is mounted on /my data; type: umount '/my data'",
            "0000:02:00.0: nvme0n1p2 is swap; type: swapoff /dev/nvme0n1p2",
            "0000:02:00.0: nvme0n1p3 is of the mounted btrfs 0b1c; type: findmnt -t btrfs",
        });
}

TEST_CASE("uses: what is built upon a disk is followed down to it", "[uses]") {
  const Host host;
  const std::string part = host.disk(kNvme, "nvme0n1p2", "259:2");
  const std::string spare = host.disk(kNvme, "nvme0n1p3", "259:3");
  const std::string raid = host.disk("", "md0", "9:0");
  const std::string volume = host.disk("", "dm-0", "253:0");
  host.tree.write(volume + "/dm/name", "group-root\n");
  host.tree.folder(part + "/holders/md0");
  host.tree.folder(raid + "/holders/dm-0");
  host.tree.folder(spare + "/holders/dm-0");
  CHECK(lines_of(host.uses()) ==
        std::vector<std::string>{
            "0000:02:00.0: md0 is a part of dm-0 (group-root), which is built upon nvme0n1p2; "
            "type: lsblk -s /dev/dm-0",
            "0000:02:00.0: nvme0n1p3 is a part of dm-0 (group-root); type: lsblk -s /dev/dm-0",
        });
  host.tree.write("/proc/self/mountinfo", "21 1 253:0 / / rw - ext4 /dev/mapper/group-root rw\n");
  CHECK(lines_of(host.uses()).at(0) ==
        "0000:02:00.0: dm-0 is mounted on /, which is built upon md0, which is built upon "
        "nvme0n1p2; type: umount /");
}

TEST_CASE("uses: a disk that nobody uses is free", "[uses]") {
  const Host host;
  host.disk(kNvme, "nvme0n1", "259:0");
  CHECK(host.uses() == Uses{});
}

TEST_CASE("uses: the default route is followed to the NIC below bridge, bond and VLAN", "[uses]") {
  const Host host;
  host.nic(kNvme, "eth0");
  host.nic("", "bond0");
  host.nic("", "br0");
  host.tree.folder("/sys/devices/virtual/net/br0/lower_bond0");
  host.tree.folder("/sys/devices/virtual/net/bond0/lower_eth0");
  const std::string head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
  host.tree.write("/proc/self/net/route",
                  head +
                      "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n"
                      "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000080\n");
  CHECK(host.uses() == Uses{});  // two halves of the net are a VPN's trick, not the default
  host.tree.write("/proc/self/net/route",
                  head + "br0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n");
  CHECK(lines_of(host.uses()) ==
        std::vector<std::string>{
            "0000:02:00.0: eth0 has the default route through br0; type: ip route"});
}

TEST_CASE("uses: a default route of IPv6 counts, and the kernel's own refusal does not", "[uses]") {
  const Host host;
  host.nic(kNvme, "eth0");
  const std::string zeros(32, '0');
  const auto route = [&](const std::string& flags, const std::string& name) {
    std::string line = zeros;
    line.append(" 00 ").append(zeros).append(" 00 ").append(zeros);
    return line + " 00000400 00000001 00000000 " + flags + " " + name + "\n";
  };
  host.tree.write("/proc/self/net/ipv6_route", route("00200200", "eth0"));
  CHECK(host.uses() == Uses{});
  host.tree.write("/proc/self/net/ipv6_route", route("00450003", "    eth0"));
  CHECK(lines_of(host.uses()) ==
        std::vector<std::string>{"0000:02:00.0: eth0 has the default route; type: ip route"});
}

TEST_CASE("uses: keyboards are told from buttons, and by what they hang on", "[uses]") {
  const Host host;
  const std::string usb = host.tree.device(kNvme) + "/usb1/1-1/1-1:1.0";
  const std::string keys = "10000 7 ff9f207a c14057ff febeffdf ffefffff fffffffffffffffe";
  host.keyboard("input1", usb, keys);
  host.keyboard("input2", "/sys/devices/LNXSYSTM:00/LNXPWRBN:00", "10000000000000 0");
  host.keyboard("input3", "/sys/devices/virtual", keys);
  const Uses one = host.uses();
  CHECK(one.keyboards == std::set<Place>{{{0, 2, 0, 0}, "1-1"}});
  CHECK_FALSE(one.other_keyboard);
  host.keyboard("input4", "/sys/devices/platform/i8042/serio0", keys);
  CHECK(host.uses().other_keyboard);
}

TEST_CASE("uses: what weakens the walls between devices is seen", "[uses]") {
  const Host host;
  host.tree.write("/proc/cmdline", "ro quiet pcie_acs_override=downstream\n");
  host.tree.write("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
  host.tree.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
  Uses weak;
  weak.acs_override = weak.no_iommu_mode = weak.unsafe_interrupts = true;
  CHECK(host.uses() == weak);
  host.tree.write("/proc/cmdline", "ro quiet\n");
  host.tree.write("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
  host.tree.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
  CHECK(host.uses() == Uses{});
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
