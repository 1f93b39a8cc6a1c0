#include "launcher/survey/window_server.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// QEMU finds it under that name in a root folder of its own, which has no /proc.
bool is_there(const base::Tree& tree, const std::string& path, mode_t type) {
  const bool is_normal = std::filesystem::path(path).lexically_normal().string() == path;
  const auto node = path.starts_with('/') && is_normal && !path.starts_with("/proc/")
                        ? tree.status(path)
                        : std::nullopt;
  return node && (node->st_mode & S_IFMT) == type;
}

/// ":0" or ":0.1"; "" for another machine's.
std::string socket_of_display(const std::string& display) {
  if (!display.starts_with(':')) {
    return "";
  }
  const std::vector<std::string> numbers = base::split(display.substr(1), '.');
  const bool is_name = numbers.size() <= 2 &&
                       std::all_of(numbers.begin(), numbers.end(), [](const std::string& number) {
                         return base::parse_number<std::uint16_t>(number).has_value();
                       });
  return is_name ? "/tmp/.X11-unix/X" + numbers.front() : "";
}

}  // namespace

WindowServer look_for_window_server(const base::Tree& tree, const Environment& environment) {
  WindowServer server;
  const std::string wayland = environment("WAYLAND_DISPLAY");
  const std::string path =
      wayland.starts_with('/') ? wayland : environment("XDG_RUNTIME_DIR") + "/" + wayland;
  if (!wayland.empty() && is_there(tree, path, S_IFSOCK)) {
    server.wayland = path;
  }
  const std::string display = environment("DISPLAY");
  const std::string x11 = socket_of_display(display);
  if (is_there(tree, x11, S_IFSOCK)) {
    server.x11 = x11;
    server.display = display;
    const std::string named = environment("XAUTHORITY");
    const std::string usual = environment("HOME") + "/.Xauthority";
    const std::string authority = named.empty() ? usual : named;
    server.authority = is_there(tree, authority, S_IFREG) ? authority : "";
  }
  return server;
}

}  // namespace vmlaunch::launcher::survey
