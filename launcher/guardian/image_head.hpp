#pragma once

#include <cstddef>
#include <optional>
#include <string>

/// What a qcow2 image says of itself in its first bytes (docs/interop/qcow2.txt of QEMU). A guest
/// may have written them.
namespace vmlaunch::launcher::guardian {

/// The header, and the name of the image beneath if that lies where qemu-img puts it: all that the
/// supervisor hears of an image that only root could open. Shorter when the file is.
[[nodiscard]] std::string head_of(int fd);

/// What a header says about other files.
struct ImageLinks {
  bool is_overlay = false;             ///< it lies over another image
  std::optional<std::string> beneath;  ///< its name, if the head has it
  bool has_data_file = false;          ///< its data is in another file
};

/// Nothing for what is no qcow2 image's head.
[[nodiscard]] std::optional<ImageLinks> links_of(const std::string& head);

}  // namespace vmlaunch::launcher::guardian
