#pragma once

#include <set>
#include <string>
#include <vector>

#include "launcher/survey/pci.hpp"

namespace vmlaunch::launcher::survey {

/// What the host's own screen is drawn on.
struct Screen {
  /// Functions that the console may be on: the firmware's, and that of the first framebuffer.
  std::set<base::PciAddress> consoles;
  /// The firmware's framebuffers that have a driver, by the names of their platform devices. Which
  /// card they are on only root can see.
  std::vector<std::string> firmware;

  bool operator==(const Screen&) const = default;
};

[[nodiscard]] Screen look_at_screen(const base::Tree& tree, const Pci& pci);

/// Whether it can be the platform device of a firmware's framebuffer: "simple-framebuffer.0".
[[nodiscard]] bool is_firmware_framebuffer(std::string_view name);

}  // namespace vmlaunch::launcher::survey
