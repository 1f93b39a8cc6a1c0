#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/byte_size.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/plan/passthrough.hpp"
#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::plan {

/// Of what the guest's memory is made, and where.
struct Memory {
  std::optional<base::ByteSize> page;  ///< the size of huge pages; nothing: ordinary ones
  std::vector<unsigned> nodes;         ///< none: anywhere
  std::optional<std::string> warning;  ///< it is not what was asked for

  bool operator==(const Memory&) const = default;

  /// How many huge pages the `index`th node gives: as many as the others, or one more.
  [[nodiscard]] std::uint64_t pages_of(std::size_t index, base::ByteSize size) const;
};

/// Throws Failure: preflight for a node that is not there, memory for huge pages that cannot be had
/// (without root: that are not there already).
[[nodiscard]] Memory choose_memory(const config::VmSpec::Memory& spec,
                                   const survey::Survey& survey,
                                   const Passthrough& passthrough,
                                   bool privileged);

}  // namespace vmlaunch::launcher::plan
