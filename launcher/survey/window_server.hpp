#pragma once

#include <functional>
#include <string>

#include "base/tree.hpp"

namespace vmlaunch::launcher::survey {

/// Where windows of this process's user appear, as its environment says. Servers of other machines
/// are none.
struct WindowServer {
  std::string wayland;    ///< its socket; "" for none
  std::string x11;        ///< its socket; "" for none
  std::string display;    ///< the X server's name: ":0"
  std::string authority;  ///< the file that lets one speak with it; "" for none

  bool operator==(const WindowServer&) const = default;
};

/// A variable's value; "" if it is not set.
using Environment = std::function<std::string(const char* name)>;

[[nodiscard]] WindowServer look_for_window_server(const base::Tree& tree,
                                                  const Environment& environment);

}  // namespace vmlaunch::launcher::survey
