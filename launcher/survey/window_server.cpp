#include "launcher/survey/window_server.hpp"

#include <sys/stat.h>

#include <cstdint>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

bool is_socket(const base::Tree& tree, const std::string& path) {
  const auto node = path.starts_with('/') ? tree.status(path) : std::nullopt;
  return node && S_ISSOCK(node->st_mode);
}

/// ":0" or ":0.1"; "" for another machine's.
std::string socket_of_display(const std::string& display) {
  if (!display.starts_with(':')) {
    return "";
  }
  const std::string number = display.substr(1, display.find('.') - 1);
  return base::parse_number<std::uint16_t>(number) ? "/tmp/.X11-unix/X" + number : "";
}

}  // namespace

WindowServer look_for_window_server(const base::Tree& tree, const Environment& environment) {
  WindowServer server;
  const std::string wayland = environment("WAYLAND_DISPLAY");
  const std::string path =
      wayland.starts_with('/') ? wayland : environment("XDG_RUNTIME_DIR") + "/" + wayland;
  if (!wayland.empty() && is_socket(tree, path)) {
    server.wayland = path;
  }
  const std::string display = environment("DISPLAY");
  const std::string x11 = socket_of_display(display);
  if (is_socket(tree, x11)) {
    server.x11 = x11;
    server.display = display;
    const std::string named = environment("XAUTHORITY");
    const std::string usual = environment("HOME") + "/.Xauthority";
    server.authority = named.empty() ? usual : named;
    if (!server.authority.starts_with('/') || !tree.exists(server.authority)) {
      server.authority.clear();
    }
  }
  return server;
}

}  // namespace vmlaunch::launcher::survey
