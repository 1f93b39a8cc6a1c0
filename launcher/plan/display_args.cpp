#include <string>
#include <vector>

#include "launcher/exit_code.hpp"
#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::Display;

constexpr unsigned kLeastVncPort = 5900;

void vnc(Arguments& args) {
  const config::Endpoint& address = args.spec.display.address;
  args.need_calls("vnc");
  args.need_network();
  args.add("-vnc", address.address + ":" + std::to_string(address.port - kLeastVncPort));
}

void spice(Arguments& args) {
  const config::Endpoint& address = args.spec.display.address;
  args.need_calls("spice");
  args.need_network();
  args.add("-spice",
           "addr=" + address.address + ",port=" + std::to_string(address.port) +
               ",disable-ticketing=on");
}

/// A toolkit finds its server by variables, draws without the GPU, and asks no other service.
void add_environment(Arguments& args, const std::vector<std::string>& more) {
  auto& environment = args.plan.qemu.environment;
  environment.insert(environment.end(), more.begin(), more.end());
  for (const char* text : {"HOME=/empty",
                           "DBUS_SESSION_BUS_ADDRESS=disabled:",
                           "NO_AT_BRIDGE=1",
                           "GSETTINGS_BACKEND=memory",
                           "SDL_RENDER_DRIVER=software",
                           "SDL_FRAMEBUFFER_ACCELERATION=0"}) {
    environment.emplace_back(text);
  }
}

void use_wayland(Arguments& args, const std::string& socket) {
  const std::size_t slash = socket.rfind('/');
  args.share(socket);
  args.need_calls("wayland");
  add_environment(args,
                  {"XDG_RUNTIME_DIR=" + socket.substr(0, slash),
                   "WAYLAND_DISPLAY=" + socket.substr(slash + 1),
                   "GDK_BACKEND=wayland",
                   "SDL_VIDEODRIVER=wayland"});
}

void use_x11(Arguments& args, const survey::WindowServer& server) {
  args.plan.warnings.emplace_back(
      "QEMU shows its window by an X server, which lets each of its programs read all keys and "
      "screens: a guest that breaks out of it has those");
  args.share(server.x11);
  std::vector<std::string> variables = {
      "DISPLAY=" + server.display, "GDK_BACKEND=x11", "SDL_VIDEODRIVER=x11"};
  if (!server.authority.empty()) {
    args.share(server.authority);
    variables.push_back("XAUTHORITY=" + server.authority);
  }
  add_environment(args, variables);
}

void window(Arguments& args, const char* toolkit) {
  const survey::WindowServer& server = args.survey.window_server;
  if (server.wayland.empty() && server.x11.empty()) {
    throw Failure(
        ExitCode::preflight,
        "Cannot show a window: neither WAYLAND_DISPLAY nor DISPLAY names a server of this "
        "machine; type: echo \"$WAYLAND_DISPLAY\" \"$DISPLAY\"");
  }
  args.need_calls("window");
  for (const char* folder : {"/etc/fonts", "/var/cache/fontconfig", "/etc/gtk-3.0"}) {
    args.share(folder);
  }
  server.wayland.empty() ? use_x11(args, server) : use_wayland(args, server.wayland);
  args.add("-display", toolkit);
}

}  // namespace

void add_video(Arguments& args) {
  switch (args.spec.video) {
    case config::Video::none:
      return;
    case config::Video::vga:
      return args.add_json("-device", args.device("VGA", "screen", kScreenSlot));
    case config::Video::qxl:
      return args.add_json("-device", args.device("qxl-vga", "screen", kScreenSlot));
    case config::Video::virtio:
      return args.add_json("-device", args.device("virtio-vga", "screen", kScreenSlot));
  }
}

void add_display(Arguments& args) {
  switch (args.spec.display.kind) {
    case Display::Kind::none:
      return args.add("-display", "none");
    case Display::Kind::vnc:
      return vnc(args);
    case Display::Kind::spice:
      return spice(args);
    case Display::Kind::gtk:
      return window(args, "gtk");
    case Display::Kind::sdl:
      return window(args, "sdl");
  }
}

}  // namespace vmlaunch::launcher::plan
