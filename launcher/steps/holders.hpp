#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/pci_address.hpp"
#include "base/tree.hpp"
#include "launcher/wire.hpp"

namespace vmlaunch::launcher::steps {

/// A device node by which programs reach a PCI device.
struct Node {
  std::string path;  ///< for people: "/dev/dri/card0"
  bool block = false;
  unsigned major = 0;
  unsigned minor = 0;

  bool operator==(const Node&) const = default;
};

/// A process that has a node open or mapped.
struct Holder {
  pid_t pid = -1;
  std::string command;  ///< its name and its first argument
  std::string node;     ///< the first that was found

  bool operator==(const Holder&) const = default;
};

/// Those of the function's drivers in sysfs, and those that NVIDIA's and AMD's compute drivers keep
/// elsewhere. What all cards of a maker share counts only for the last card.
[[nodiscard]] std::vector<Node> nodes_of(const base::Tree& tree, const base::PciAddress& device);

/// All processes but this one and its parent, by number. Needs CAP_SYS_PTRACE. The kernel can let
/// whoever asks wait for a process's memory: for children with a deadline (Host::holders).
[[nodiscard]] std::vector<Holder> find_holders(const std::vector<Node>& nodes);

[[nodiscard]] Json to_json(const std::vector<Holder>& holders);
/// Throws FormError for anything that to_json did not write.
[[nodiscard]] std::vector<Holder> read_holders(const Json& json);

/// Throws Failure (device_busy) with their names.
[[noreturn]] void refuse_held(const base::PciAddress& device, const std::vector<Holder>& holders);

/// "Xorg :0 (1234), nvidia-smi (5678)"
[[nodiscard]] std::string names_of(const std::vector<Holder>& holders);

/// "/dev/dri/card0, /dev/snd/controlC1": what they have, each once.
[[nodiscard]] std::string nodes_held(const std::vector<Holder>& holders);

}  // namespace vmlaunch::launcher::steps
