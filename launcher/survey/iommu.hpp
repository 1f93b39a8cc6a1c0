#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/survey/kernel.hpp"
#include "launcher/survey/reader.hpp"

namespace vmlaunch::launcher::survey {

/// What says why an IOMMU is off.
struct IommuSetup {
  std::string cpu_vendor;  ///< "GenuineIntel", "AuthenticAMD"; "" if it is not said
  /// The firmware's table of IOMMUs: "DMAR" (Intel), "IVRS" (AMD), "" for none, which is what a
  /// firmware shows whose setup has them off; nothing: its tables were not seen.
  std::optional<std::string> table;
  std::optional<CommandLine> command_line;

  bool operator==(const IommuSetup&) const = default;

  /// What to do where the IOMMU is off: a line for each maker of CPUs that it could be.
  [[nodiscard]] std::vector<std::string> advice() const;
};

[[nodiscard]] IommuSetup look_at_iommu_setup(Reader& reader);

}  // namespace vmlaunch::launcher::survey
