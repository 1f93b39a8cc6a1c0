#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/tree.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::tests {

/// What a PCI function of a built tree shows of itself; the initializers let gcc take some of it.
struct PciParts {
  std::uint16_t vendor = 0x8086;
  std::uint16_t device = 0x1234;
  std::uint32_t class_code = 0x088000;
  std::uint8_t revision = 0;
  std::string driver = {};             ///< "": none is bound
  std::optional<unsigned> group = {};  ///< nothing: no IOMMU
  std::string reset = {};              ///< words of reset_method; "": there is no such attribute
  std::string bridge = {};            ///< a function that was added before; "": it is on a root bus
  std::optional<bool> boot_vga = {};  ///< nothing: there is no such attribute
};

/// A tree of /sys as the kernel lays it out, in a temporary folder:
///
///     PciTree tree;
///     tree.add("0000:00:01.0", {.class_code = 0x060400, .driver = "pcieport", .group = 1});
///     tree.add("0000:01:00.0", {.group = 1, .reset = "flr bus", .bridge = "0000:00:01.0"});
///     look_at_pci(tree.tree());
///
/// What is added again replaces what was there.
class PciTree {
 public:
  PciTree();

  void add(const std::string& address, const PciParts& parts);

  /// As the kernel removes a function, and finds all such anew: without their settings, and with
  /// their driver only if it probes by itself. Those in `lost` stay away.
  void take_away(const std::string& address);
  void bring_back(const std::set<std::string>& lost);

  /// Binds another driver, or none.
  void bind(const std::string& address, const std::string& driver);

  /// The real folder of a function, below the root: "/sys/devices/pci0000:00/0000:00:01.0".
  [[nodiscard]] std::string device(const std::string& address) const;

  /// Anything else, below the root; folders on the way are made, what was there is replaced.
  void write(const std::string& path, const std::string& content) const;
  void link(const std::string& path, const std::string& target) const;
  void folder(const std::string& path) const;
  void fifo(const std::string& path) const;
  void remove(const std::string& path) const;

  [[nodiscard]] std::string root() const { return folder_.path(); }
  [[nodiscard]] std::string path_of(const std::string& path) const { return root() + path; }
  [[nodiscard]] base::Tree tree() const { return base::Tree(root()); }

 private:
  [[nodiscard]] std::string make_room(const std::string& path) const;

  void list(const std::string& address, const std::string& device) const;

  std::map<std::string, PciParts> parts_;
  std::map<std::string, std::string> away_;  ///< removed functions, with where each was
  Folder away_folder_;

  Folder folder_;
};

/// A laptop: a graphics card with sound behind a root port, a network card behind another, and the
/// chipset's functions in one group; Intel's screen is the firmware's. With `iommu` off there are
/// no groups.
void add_laptop(PciTree& tree, bool iommu = true);

}  // namespace vmlaunch::tests
