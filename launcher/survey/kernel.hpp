#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

using CommandLine = std::vector<std::string>;

/// A module of the kernel that guests depend on.
struct Module {
  std::string name;
  std::map<std::string, std::string>
      parameters;  ///< those that say what it does, as sysfs has them

  bool operator==(const Module&) const = default;
};

/// What the kernel is and how it was told to be.
struct Kernel {
  std::string release;                      ///< "" if it is not said
  std::optional<CommandLine> command_line;  ///< see look_at_command_line
  std::string lockdown;                     ///< "none", "integrity", "confidentiality"; "": none
  std::vector<Module> modules;              ///< of KVM and VFIO, those that are there

  bool operator==(const Kernel&) const = default;
};

/// The words of the kernel's command line that bear on guests, CPUs, memory and devices, in their
/// order; the others may name disks, people and secrets. Nothing: it was not seen.
[[nodiscard]] std::optional<CommandLine> look_at_command_line(Reader& reader);

[[nodiscard]] Kernel look_at_kernel(Reader& reader);

/// Where a kernel shows a module's parameter: "kvm.ignore_msrs".
[[nodiscard]] std::string parameter_file(const std::string& parameter);

}  // namespace vmlaunch::launcher::survey
