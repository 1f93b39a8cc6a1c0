#pragma once

#include <string>

#include "base/unique_fd.hpp"

/// Network links as the kernel makes them (networking/tuntap.rst in its documentation,
/// rtnetlink(7)). Each call takes the kernel's lock of all links, so it may wait. They throw
/// std::system_error.
namespace vmlaunch::launcher::steps {

/// A new tap on a bridge, up. It lasts as long as a descriptor of it. `guest_mac` tells what the
/// tap's own address must not be.
[[nodiscard]] base::UniqueFd new_tap(const std::string& name,
                                     const std::string& bridge,
                                     const std::string& guest_mac);

/// A tap that somebody else made; it must be given as what it is.
[[nodiscard]] base::UniqueFd old_tap(const std::string& name, bool multi_queue);

/// A new macvtap (mode bridge) on a link, up. It stays until it is removed.
void new_macvtap(const std::string& name, const std::string& link, const std::string& mac);

void delete_link(unsigned index);

}  // namespace vmlaunch::launcher::steps
