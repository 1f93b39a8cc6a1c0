#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/survey/cgroup.hpp"
#include "launcher/survey/cpus.hpp"
#include "launcher/survey/kernel.hpp"
#include "launcher/survey/memory.hpp"
#include "launcher/survey/pci.hpp"
#include "launcher/survey/survey.hpp"
#include "launcher/survey/usb.hpp"

namespace vmlaunch::launcher::survey {

/// Everything that `vmlaunch host` tells of a host.
struct Host {
  Pci pci;
  Usb usb;
  Cpus cpus;
  Memory memory;
  Kernel kernel;
  Kvm kvm;
  std::optional<Cgroup> cgroup;
  std::vector<std::string> unseen;  ///< what could not be seen or understood, and why

  bool operator==(const Host&) const = default;
};

/// Throws Failure (preflight) for PCI devices that cannot be a kernel's, as look_at_pci does;
/// anything else may be missing.
[[nodiscard]] Host look_at_host(Reader& reader);

}  // namespace vmlaunch::launcher::survey
