#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/byte_size.hpp"

namespace vmlaunch::launcher::survey {

/// A window of a PCI function into its registers or memory (base address register).
struct Bar {
  unsigned number = 0;  ///< 0 to 5
  std::uint64_t start = 0;
  base::ByteSize size;
  bool is_memory = true;  ///< else of I/O ports
  bool is_64bit = false;
  bool is_prefetchable = false;
  std::vector<base::ByteSize> sizes;  ///< that it can have; none: it cannot be resized

  bool operator==(const Bar&) const = default;
};

/// Of sysfs's "resource": a line for each resource, of which the first six are BARs, with start,
/// end and flags (include/linux/ioport.h); zeros for none. Nothing for any other text.
[[nodiscard]] std::optional<std::vector<Bar>> parse_bars(const std::string& text);

/// Of sysfs's "resourceN_resize": bit n stands for 2^n MiB.
[[nodiscard]] std::vector<base::ByteSize> sizes_of(std::uint64_t mask);

}  // namespace vmlaunch::launcher::survey
