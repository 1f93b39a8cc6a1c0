#include "launcher/survey/pci.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <thread>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using base::PciAddress;
using base::printable;
using base::Tree;

constexpr const char* kDevices = "/sys/bus/pci/devices";
constexpr const char* kDrivers = "/sys/bus/pci/drivers/";
constexpr const char* kGroups = "/sys/kernel/iommu_groups";

constexpr std::string_view kWordSigns = "abcdefghijklmnopqrstuvwxyz0123456789_";

constexpr unsigned kHostBridge = 0x0600;
constexpr unsigned kOtherBridge = 0x0680;
constexpr std::array kBridgesWithBuses = {0x0604U, 0x0607U, 0x0609U};

[[noreturn]] void refuse(const Tree& tree, const std::string& path, const std::string& problem) {
  throw Failure(ExitCode::preflight,
                "Cannot take " + printable(tree.path_of(path)) + " for the kernel's: " + problem +
                    "; type: ls -ld " + base::shell_quote(tree.path_of(path)));
}

std::optional<unsigned> parse_group(const std::string& name) {
  const auto number = base::parse_number<unsigned>(name);
  return number && std::to_string(*number) == name ? number : std::nullopt;
}

std::optional<PciAddress> parse_kernel_address(const std::string& name) {
  const auto address = base::parse_pci_address(name);
  return address && to_string(*address) == name ? address : std::nullopt;
}

/// A device that is being pulled out loses its attributes before its name, and drivers come and go:
/// what is wrong must be so at every look.
constexpr int kLooks = 3;
constexpr std::chrono::milliseconds kPause{2};

/// A function that was there before is no more.
class Gone : public std::exception {};

/// One look at one function's folder.
class Look {
 public:
  Look(const Tree& tree, const PciAddress& address)
      : tree_(tree), link_(std::string(kDevices) + "/" + to_string(address)), address_(address) {}

  /// Nothing if too much of it is hidden; what is hidden is then in `hidden`. Throws Gone.
  std::optional<PciFunction> take(Windows windows, std::vector<std::string>& hidden) {
    PciFunction function;
    function.address = address_;
    folder_ = folder();
    function.bridge = bridge();
    function.vendor = static_cast<std::uint16_t>(id("vendor", 4));
    function.device = static_cast<std::uint16_t>(id("device", 4));
    function.class_code = id("class", 6);
    function.revision = static_cast<std::uint8_t>(id("revision", 2));
    function.driver = driver();
    function.iommu_group = group();
    const bool complete = hidden_.empty();
    function.reset_methods = reset_methods();
    function.boot_vga = boot_vga();
    function.is_virtual = tree_.link_name(folder_ + "/physfn").has_value();
    function.physical = physical();
    function.virtual_total = count("sriov_totalvfs");
    function.virtual_count = count("sriov_numvfs");
    function.numa_node = numa_node();
    if (windows == Windows::read) {
      function.bars = bars();
    }
    hidden.insert(hidden.end(), hidden_.begin(), hidden_.end());
    return complete ? std::optional(function) : std::nullopt;
  }

 private:
  std::optional<std::string> attribute(const std::string& name) {
    const std::string path = folder_ + "/" + name;
    std::optional<std::string> text = tree_.read(path);
    if (!text && tree_.is_hidden(path)) {
      hidden_.push_back(link_ + "/" + name);
    } else if (!text && tree_.exists(path)) {
      refuse(tree_, link_ + "/" + name, "it cannot be read as a small file");
    }
    return text;
  }

  std::uint32_t id(const std::string& name, std::size_t digits) {
    const std::optional<std::string> text = attribute(name);
    if (!text) {
      if (hidden_.empty()) {
        refuse(tree_, link_, "it has no " + name);
      }
      return 0;
    }
    const auto number = text->starts_with("0x") && text->size() == 2 + digits
                            ? base::parse_number<std::uint32_t>(text->substr(2), 16)
                            : std::nullopt;
    if (!number) {
      refuse(tree_,
             link_ + "/" + name,
             "expected 0x and " + std::to_string(digits) + " hexadecimal digits, found " +
                 quoted(*text));
    }
    return *number;
  }

  /// Where a link in the folder leads: nothing if it is not there or hidden.
  std::optional<std::string> target(const std::string& name) {
    std::optional<std::string> real = follow(folder_ + "/" + name, link_ + "/" + name);
    if (!real && tree_.is_hidden(folder_ + "/" + name)) {
      hidden_.push_back(link_ + "/" + name);
    }
    return real;
  }

  /// A link may come and go between two looks: only one that never leads anywhere is refused.
  std::optional<std::string> follow(const std::string& link, const std::string& shown) const {
    constexpr int kFollows = 100;
    for (int look = 0; look < kFollows; ++look) {
      if (std::optional<std::string> real = tree_.resolve(link)) {
        return real;
      }
      if (tree_.is_hidden(link) || !tree_.link_name(link)) {
        return std::nullopt;
      }
    }
    refuse(tree_, shown, "it leads nowhere");
  }

  /// The real folder, so that all is read of one function.
  std::string folder() const {
    const std::optional<std::string> real = follow(link_, link_);
    if (!real) {
      throw Gone();
    }
    if (!real->starts_with("/sys/devices/") || !real->ends_with("/" + to_string(address_))) {
      refuse(tree_, link_, "it leads to " + quoted(*real));
    }
    return *real;
  }

  std::optional<PciAddress> bridge() const {
    const std::string above = folder_.substr(0, folder_.rfind('/'));
    const std::optional<PciAddress> bridge =
        parse_kernel_address(above.substr(above.rfind('/') + 1));
    // Each folder is in its bridge's own, so whoever follows the bridges comes to an end.
    if (bridge && tree_.resolve(std::string(kDevices) + "/" + to_string(*bridge)) != above) {
      refuse(tree_, link_, "it is below " + quoted(above) + ", which is no PCI device");
    }
    return bridge;
  }

  std::optional<std::string> driver() {
    const std::optional<std::string> real = target("driver");
    if (!real) {
      return std::nullopt;
    }
    const std::string name = real->substr(real->rfind('/') + 1);
    if (*real != kDrivers + name || !is_driver_name(name)) {
      refuse(tree_, link_ + "/driver", "it leads to " + quoted(*real));
    }
    return name;
  }

  std::optional<unsigned> group() {
    const std::optional<std::string> real = target("iommu_group");
    if (!real) {
      return std::nullopt;
    }
    const std::string name = real->substr(real->rfind('/') + 1);
    const std::optional<unsigned> number = parse_group(name);
    if (!number || *real != std::string(kGroups) + "/" + name) {
      refuse(tree_, link_ + "/iommu_group", "it leads to " + quoted(*real));
    }
    // vfio makes such groups where there is no IOMMU and the administrator asked for none.
    return tree_.read(*real + "/name") == "vfio-noiommu" ? std::nullopt : number;
  }

  std::vector<std::string> reset_methods() {
    const std::string text = attribute("reset_method").value_or("");
    if (text.empty()) {
      return {};
    }
    std::vector<std::string> methods = base::split(text, ' ');
    for (const std::string& method : methods) {
      if (method.empty() || method.find_first_not_of(kWordSigns) != std::string::npos) {
        refuse(tree_, link_ + "/reset_method", "expected names of methods, found " + quoted(text));
      }
    }
    return methods;
  }

  bool boot_vga() {
    const std::string text = attribute("boot_vga").value_or("0");
    if (text != "0" && text != "1") {
      refuse(tree_, link_ + "/boot_vga", "expected 0 or 1, found " + quoted(text));
    }
    return text == "1";
  }

  std::optional<PciAddress> physical() {
    const std::optional<std::string> real = target("physfn");
    return real ? parse_kernel_address(real->substr(real->rfind('/') + 1)) : std::nullopt;
  }

  unsigned count(const std::string& name) {
    const std::string text = attribute(name).value_or("0");
    const auto number = base::parse_number<unsigned>(text);
    if (!number) {
      refuse(tree_, link_ + "/" + name, "expected a number, found " + quoted(text));
    }
    return *number;
  }

  std::optional<unsigned> numa_node() {
    const std::string text = attribute("numa_node").value_or("-1");
    const auto number = base::parse_number<unsigned>(text);
    if (!number && text != "-1") {
      refuse(tree_, link_ + "/numa_node", "expected a node's number or -1, found " + quoted(text));
    }
    return number;
  }

  std::vector<Bar> bars() {
    const std::string text = attribute("resource").value_or("");
    std::optional<std::vector<Bar>> bars = parse_bars(text);
    if (!bars) {
      refuse(tree_,
             link_ + "/resource",
             "expected lines of start, end and flags, found " + quoted(text));
    }
    for (Bar& bar : *bars) {
      const std::string name = "resource" + std::to_string(bar.number) + "_resize";
      const std::string sizes = attribute(name).value_or("0");
      const auto mask = base::parse_number<std::uint64_t>(sizes, 16);
      if (!mask) {
        refuse(tree_, link_ + "/" + name, "expected a hexadecimal mask, found " + quoted(sizes));
      }
      bar.sizes = sizes_of(*mask);
    }
    return *bars;
  }

  const Tree& tree_;
  std::string link_;    ///< in the list of devices
  std::string folder_;  ///< where it leads
  PciAddress address_;
  std::vector<std::string> hidden_;
};

/// Nothing for a function that is gone or hidden.
std::optional<PciFunction> look_at_function(const Tree& tree,
                                            const PciAddress& address,
                                            Windows windows,
                                            std::vector<std::string>& hidden) {
  const std::string path = std::string(kDevices) + "/" + to_string(address);
  for (int look = 1;; ++look) {
    try {
      return Look(tree, address).take(windows, hidden);
    } catch (const Gone&) {
      return std::nullopt;
    } catch (const Failure&) {
      if (!tree.link_name(path) && !tree.exists(path)) {
        return std::nullopt;
      }
      if (look == kLooks) {
        throw;
      }
    }
    std::this_thread::sleep_for(kPause);
  }
}

bool has_iommu(const Tree& tree) {
  bool found = false;
  for (const std::string& name : tree.list(kGroups)) {
    const std::string path = std::string(kGroups) + "/" + name;
    if (!parse_group(name)) {
      refuse(tree, path, "a group's name is a number");
    }
    found = found || tree.read(path + "/name") != "vfio-noiommu";
  }
  return found;
}

}  // namespace

bool PciFunction::is_bridge() const {
  const std::uint32_t kind = class_code >> 8U;
  return std::find(kBridgesWithBuses.begin(), kBridgesWithBuses.end(), kind) !=
             kBridgesWithBuses.end() ||
         (kind == kHostBridge && !driver);
}

bool PciFunction::is_fabric() const {
  return class_code >> 16U == 0x06 && class_code >> 8U != kOtherBridge;
}

bool is_driver_name(std::string_view name) {
  constexpr std::size_t kLongest = 255;
  return !name.empty() && name.size() <= kLongest && name.front() != '.' && name.front() != ' ' &&
         name.back() != ' ' && std::all_of(name.begin(), name.end(), [](char c) {
           return c >= ' ' && c <= '~' && c != '/';
         });
}

const PciFunction* Pci::find(const PciAddress& address) const {
  const auto found = std::find_if(functions.begin(), functions.end(), [&](const PciFunction& one) {
    return one.address == address;
  });
  return found == functions.end() ? nullptr : &*found;
}

std::vector<const PciFunction*> Pci::group(unsigned number) const {
  std::vector<const PciFunction*> members;
  for (const PciFunction& function : functions) {
    if (function.iommu_group == number) {
      members.push_back(&function);
    }
  }
  return members;
}

std::optional<bool> Pci::has_iommu() const {
  const bool is_hidden = std::any_of(unseen.begin(), unseen.end(), [](const std::string& line) {
    return line.starts_with(kGroups);
  });
  return is_hidden && !iommu ? std::nullopt : std::optional(iommu);
}

std::vector<std::string> Pci::iommu_advice() const {
  if (has_iommu() != false) {
    return {};
  }
  return iommu_setup.advice();
}

Pci look_at_pci(const Tree& tree) {
  Reader reader(tree);
  return look_at_pci(reader, Windows::left_out);
}

Pci look_at_pci(Reader& reader, Windows windows) {
  const Tree& tree = reader.tree();
  Pci pci;
  pci.iommu_setup = look_at_iommu_setup(reader);
  for (const char* folder : {kDevices, kGroups}) {
    if (tree.is_hidden(folder)) {
      pci.unseen.push_back(std::string(folder) + ": Permission denied");
    }
  }
  pci.iommu = has_iommu(tree);
  for (const std::string& name : tree.list(kDevices)) {
    const std::optional<PciAddress> address = parse_kernel_address(name);
    if (!address) {
      refuse(tree, std::string(kDevices) + "/" + name, "its name is no PCI address");
    }
    std::vector<std::string> hidden;
    if (const auto function = look_at_function(tree, *address, windows, hidden)) {
      pci.functions.push_back(*function);
    }
    for (const std::string& path : hidden) {
      pci.unseen.push_back(path + ": Permission denied");
    }
  }
  std::sort(pci.functions.begin(),
            pci.functions.end(),
            [](const PciFunction& a, const PciFunction& b) { return a.address < b.address; });
  return pci;
}

}  // namespace vmlaunch::launcher::survey
