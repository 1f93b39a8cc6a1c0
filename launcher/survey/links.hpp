#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/tree.hpp"
#include "launcher/config/vm_spec.hpp"

namespace vmlaunch::launcher::survey {

/// A network link of the host.
struct Link {
  bool ethernet = false;  ///< frames with MAC addresses
  bool bridge = false;
  bool tap = false;  ///< tun or tap
  bool wireless = false;
  bool up = false;
  bool steady = true;  ///< not a bridge whose address is that of its ports, and which has none

  bool operator==(const Link&) const = default;
};

/// Whether a tap that comes and goes leaves a bridge its address: somebody chose it, or there is a
/// port.
[[nodiscard]] bool has_steady_address(const base::Tree& tree, const std::string& bridge);

/// Those of the config's links that are there, by name.
[[nodiscard]] std::map<std::string, Link> look_at_links(
    const base::Tree& tree, const std::vector<config::VmSpec::Nic>& nics);

}  // namespace vmlaunch::launcher::survey
