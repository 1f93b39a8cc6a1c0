#include "launcher/survey/uses.hpp"

#include <cstdint>
#include <map>
#include <optional>

#include "base/text.hpp"
#include "launcher/config/usb_rule.hpp"
#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using base::Tree;

/// The device that a path of sysfs leads through, the nearest one.
std::optional<Place> place_of(const std::string& path) {
  std::string usb;
  const std::vector<std::string> parts = base::split(path, '/');
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (const auto address = base::parse_pci_address(*part)) {
      return Place{*address, usb};
    }
    if (usb.empty() && config::parse_usb_port(*part)) {
      usb = *part;
    }
  }
  return std::nullopt;
}

std::vector<std::vector<std::string>> table_of(const Tree& tree, const std::string& path) {
  std::vector<std::vector<std::string>> rows;
  for (const std::string& line : base::split(tree.read(path).value_or(""), '\n')) {
    rows.push_back(words_of(line));
  }
  return rows;
}

/// /proc writes spaces and the like in octal: "\040".
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto code =
        text[i] == '\\' ? base::parse_number<std::uint8_t>(text.substr(i + 1, 3), 8) : std::nullopt;
    plain += code ? static_cast<char>(*code) : text[i];
    i += code ? 3U : 0U;
  }
  return plain;
}

/// Who needs a block device: itself, or what is built upon it.
class Disks {
 public:
  explicit Disks(const Tree& tree) : tree_(tree) {
    add_mounts();
    add_swaps();
  }

  void add_uses(std::vector<Use>& uses) const {
    for (const std::string& name : tree_.list("/sys/class/block")) {
      const auto place = place_of(tree_.resolve("/sys/class/block/" + name).value_or(""));
      std::set<std::string> seen;
      for (const Need& need : place ? needs_of(name, seen) : std::vector<Need>()) {
        uses.push_back({*place, need.what, need.advice});
      }
    }
  }

 private:
  struct Need {
    std::string what;
    std::string advice;
  };

  /// The kernel's name of a node: "dm-0" for "/dev/mapper/data".
  [[nodiscard]] std::string name_of(const std::string& node) const {
    const std::string real = tree_.resolve(node).value_or(node);
    return real.substr(real.rfind('/') + 1);
  }

  void add_mounts() {
    for (const auto& words : table_of(tree_, "/proc/self/mountinfo")) {
      if (words.size() < 5) {
        continue;
      }
      const auto disk = tree_.resolve("/sys/dev/block/" + words[2]);
      const std::string mount = unescaped(words[4]);
      if (disk) {
        add(disk->substr(disk->rfind('/') + 1),
            "is mounted on " + base::printable(mount),
            "type: umount " + base::shell_quote(mount));
      }
    }
    // Its mounts have numbers of no device. The kernel has a folder for each that is mounted.
    for (const std::string& id : tree_.list("/sys/fs/btrfs")) {
      for (const std::string& name : tree_.list("/sys/fs/btrfs/" + id + "/devices")) {
        add(name, "is of the mounted btrfs " + base::printable(id), "type: findmnt -t btrfs");
      }
    }
  }

  void add_swaps() {
    for (const auto& words : table_of(tree_, "/proc/swaps")) {
      if (words.size() >= 2 && words[1] == "partition") {
        const std::string node = unescaped(words[0]);
        add(name_of(node), "is swap", "type: swapoff " + base::shell_quote(node));
      }
    }
  }

  void add(const std::string& name, const std::string& what, const std::string& advice) {
    needs_[name].push_back({name + " " + what, advice});
  }

  std::vector<Need> needs_of(const std::string& name, std::set<std::string>& seen) const {
    std::vector<Need> all;
    if (!seen.insert(name).second) {
      return all;
    }
    if (const auto own = needs_.find(name); own != needs_.end()) {
      all = own->second;
    }
    for (const std::string& holder : tree_.list("/sys/class/block/" + name + "/holders")) {
      const std::vector<Need> above = needs_of(holder, seen);
      if (above.empty()) {
        all.push_back(
            {name + " is a part of " + described(holder), "type: lsblk -s /dev/" + holder});
      }
      for (const Need& need : above) {
        all.push_back({need.what + ", which is built upon " + name, need.advice});
      }
    }
    return all;
  }

  /// "dm-0 (group-root)"
  [[nodiscard]] std::string described(const std::string& name) const {
    const auto shown = tree_.read("/sys/class/block/" + name + "/dm/name");
    return shown ? name + " (" + base::printable(*shown) + ")" : name;
  }

  const Tree& tree_;
  std::map<std::string, std::vector<Need>> needs_;
};

/// Interfaces that a packet to anywhere leaves by (Documentation/networking: the kernel's two
/// tables of routes).
std::set<std::string> default_interfaces(const Tree& tree) {
  constexpr std::string_view kNothing = "00000000";
  const std::string anywhere(32, '0');
  constexpr std::uint32_t kReject = 0x200;
  std::set<std::string> names;
  for (const auto& words : table_of(tree, "/proc/self/net/route")) {
    if (words.size() >= 8 && words[1] == kNothing && words[7] == kNothing) {
      names.insert(words[0]);
    }
  }
  for (const auto& words : table_of(tree, "/proc/self/net/ipv6_route")) {
    const auto flags =
        words.size() >= 10 ? base::parse_number<std::uint32_t>(words[8], 16) : std::nullopt;
    if (flags && (*flags & kReject) == 0 && words[0] == anywhere && words[1] == "00") {
      names.insert(words[9]);
    }
  }
  return names;
}

/// The interfaces that one is made of, in the end: those of a bridge, a bond or a VLAN.
void add_lowest(const Tree& tree,
                const std::string& name,
                std::set<std::string>& seen,
                std::vector<std::string>& lowest) {
  constexpr std::string_view kLower = "lower_";
  if (!seen.insert(name).second) {
    return;
  }
  lowest.push_back(name);
  for (const std::string& entry : tree.list("/sys/class/net/" + name)) {
    if (entry.starts_with(kLower)) {
      add_lowest(tree, entry.substr(kLower.size()), seen, lowest);
    }
  }
}

void add_routes(const Tree& tree, std::vector<Use>& uses) {
  for (const std::string& name : default_interfaces(tree)) {
    std::set<std::string> seen;
    std::vector<std::string> lowest;
    add_lowest(tree, name, seen, lowest);
    for (const std::string& nic : lowest) {
      const auto place = place_of(tree.resolve("/sys/class/net/" + nic).value_or(""));
      if (place) {
        uses.push_back({*place,
                        nic + " has the default route" + (nic == name ? "" : " through " + name),
                        "type: ip route"});
      }
    }
  }
}

/// Every key from Escape to S, which no button or mouse has (the test that udev makes).
bool is_keyboard(const std::string& keys) {
  constexpr std::uint64_t kLetters = 0xfffffffe;
  const auto lowest = base::parse_number<std::uint64_t>(keys.substr(keys.rfind(' ') + 1), 16);
  return lowest && (*lowest & kLetters) == kLetters;
}

void add_keyboards(const Tree& tree, Uses& uses) {
  for (const std::string& name : tree.list("/sys/class/input")) {
    const std::string folder = tree.resolve("/sys/class/input/" + name).value_or("");
    if (!name.starts_with("input") || folder.find("/devices/virtual/") != std::string::npos ||
        !is_keyboard(tree.read(folder + "/capabilities/key").value_or(""))) {
      continue;
    }
    // A PS/2 controller may be shown below the chipset's bridge, which is no device to take.
    const auto place = folder.find("/serio") == std::string::npos ? place_of(folder) : std::nullopt;
    if (place) {
      uses.keyboards.insert(*place);
    } else {
      uses.other_keyboard = true;
    }
  }
}

bool is_on(const Tree& tree, const std::string& parameter) {
  return tree.read("/sys/module/" + parameter) == "Y";
}

}  // namespace

Uses look_at_uses(const Tree& tree) {
  Uses uses;
  Disks(tree).add_uses(uses.uses);
  add_routes(tree, uses.uses);
  add_keyboards(tree, uses);
  uses.no_iommu_mode = is_on(tree, "vfio/parameters/enable_unsafe_noiommu_mode");
  uses.unsafe_interrupts = is_on(tree, "vfio_iommu_type1/parameters/allow_unsafe_interrupts");
  for (const std::string& word : words_of(tree.read("/proc/cmdline").value_or(""))) {
    uses.acs_override = uses.acs_override || word.starts_with("pcie_acs_override=");
  }
  return uses;
}

}  // namespace vmlaunch::launcher::survey
