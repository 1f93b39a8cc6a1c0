#pragma once

#include <string>
#include <vector>

#include "base/pci_address.hpp"
#include "base/tree.hpp"
#include "base/unique_fd.hpp"
#include "launcher/wire.hpp"

namespace vmlaunch::launcher::steps {

/// What vfio says of the reset of a function that it has (linux/vfio.h): sysfs only has hints.
struct VfioReset {
  base::PciAddress device;
  bool alone = false;                           ///< by itself (VFIO_DEVICE_FLAGS_RESET)
  std::vector<base::PciAddress> together = {};  ///< all that a hot reset would reset, itself too;
                                                ///< none: there is no hot reset

  bool operator==(const VfioReset&) const = default;
};

/// Functions that vfio has, opened as QEMU opens them; nobody else can have them open meanwhile.
/// A call can take a minute and more, since opening and closing a function resets it where it can:
/// for children with a deadline (Host::ask_vfio, Host::hot_reset). Throws std::system_error.
class Vfio {
 public:
  Vfio(const base::Tree& tree, const std::vector<base::PciAddress>& functions);

  [[nodiscard]] VfioReset ask(const base::PciAddress& function) const;

  /// Of all that share the bus of that function: each must be one of ours. ENOTTY: vfio has no hot
  /// reset for it.
  void hot_reset(const base::PciAddress& function) const;

 private:
  struct Group {
    std::string number;
    base::UniqueFd fd;
  };

  [[nodiscard]] base::UniqueFd open(const base::PciAddress& function) const;

  base::UniqueFd container_;
  std::vector<Group> groups_;
  std::vector<std::pair<base::PciAddress, std::size_t>> group_of_;
};

/// As Host::open_group_of says; waits as long as whoever opens or closes one.
[[nodiscard]] std::string find_open_group(const base::Tree& tree,
                                          const std::vector<base::PciAddress>& functions);

[[nodiscard]] Json to_json(const std::vector<VfioReset>& answers);
/// Throws FormError for anything that to_json did not write.
[[nodiscard]] std::vector<VfioReset> read_vfio_resets(const Json& json);

}  // namespace vmlaunch::launcher::steps
