#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

struct pci_access;

namespace vmlaunch::launcher::survey {

/// What people call PCI ids, from the machine's pci.ids. Names can be shown as they are. Without
/// that file, or with one that cannot be read as such, nothing has a name.
class PciNames {
 public:
  /// "" is where libpci looks.
  explicit PciNames(const std::string& file = "");

  [[nodiscard]] std::optional<std::string> vendor(std::uint16_t vendor) const;
  [[nodiscard]] std::optional<std::string> device(std::uint16_t vendor, std::uint16_t device) const;

  /// Of class and subclass.
  [[nodiscard]] std::optional<std::string> device_class(std::uint16_t number) const;

 private:
  struct Close {
    void operator()(pci_access* access) const;
  };

  [[nodiscard]] std::optional<std::string> look_up(int what, int id, int second = 0) const;

  std::unique_ptr<pci_access, Close> access_;  ///< empty: there are no names
};

}  // namespace vmlaunch::launcher::survey
