#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/unique_fd.hpp"
#include "launcher/plan/plan.hpp"
#include "tests/support/pci_tree.hpp"
#include "tests/unit/plan_of.hpp"

namespace vmlaunch::launcher::plan {
namespace {

using namespace tests;

const std::string kGtk = R"({"display": "gtk"})";

survey::Survey with(const survey::WindowServer& server) {
  survey::Survey survey = host();
  survey.window_server = server;
  return survey;
}

const survey::WindowServer kX11{"", "/tmp/.X11-unix/X0", ":0", "/home/anna/.Xauthority"};
const survey::WindowServer kBoth{"/run/user/1000/wayland-0", "/tmp/.X11-unix/X0", ":0", ""};

bool has(const std::vector<std::string>& list, const std::string& text) {
  return std::find(list.begin(), list.end(), text) != list.end();
}

TEST_CASE("plan: a SPICE server is an option, with the devices of its viewers", "[plan]") {
  const Plan plan = plan_of(R"({"display": {"spice": "127.0.0.1:5930", "usb_redirection": 2}})");
  CHECK(values_of(plan, "-spice") ==
        std::vector<std::string>{"addr=127.0.0.1,port=5930,disable-ticketing=on"});
  CHECK(values_of(plan, "-chardev") ==
        std::vector<std::string>{"socket,id=qmp,fd=3",
                                 "spicevmc,name=usbredir,id=redirected0",
                                 "spicevmc,name=usbredir,id=redirected1"});
  CHECK(has(
      values_of(plan, "-device"),
      R"({"bus":"usb.0","chardev":"redirected1","driver":"usb-redir","id":"redirected1-device"})"));
  CHECK(plan.qemu.calls.sections.contains("spice"));
  CHECK_FALSE(plan.qemu.calls.sections.contains("usb"));
  CHECK(plan.qemu.root.network);
}

TEST_CASE("plan: a window is shown by Wayland, else by X11 with a warning", "[plan]") {
  const Plan wayland = plan_of(kGtk, with(kBoth));
  CHECK(values_of(wayland, "-display") == std::vector<std::string>{"gtk"});
  CHECK(has(wayland.qemu.root.shared, "/run/user/1000/wayland-0"));
  CHECK_FALSE(has(wayland.qemu.root.shared, "/tmp/.X11-unix/X0"));
  CHECK(has(wayland.qemu.environment, "WAYLAND_DISPLAY=wayland-0"));
  CHECK(has(wayland.qemu.environment, "XDG_RUNTIME_DIR=/run/user/1000"));
  CHECK(wayland.qemu.calls.sections.contains("wayland"));
  CHECK(wayland.warnings.empty());
  CHECK_FALSE(wayland.qemu.root.network);

  const Plan x11 = plan_of(R"({"display": "sdl"})", with(kX11));
  CHECK(values_of(x11, "-display") == std::vector<std::string>{"sdl"});
  CHECK(has(x11.qemu.root.shared, "/tmp/.X11-unix/X0"));
  CHECK(has(x11.qemu.root.shared, "/home/anna/.Xauthority"));
  CHECK(has(x11.qemu.environment, "DISPLAY=:0"));
  CHECK(has(x11.qemu.environment, "XAUTHORITY=/home/anna/.Xauthority"));
  CHECK_FALSE(x11.qemu.calls.sections.contains("wayland"));
  REQUIRE(x11.warnings.size() == 1);
  CHECK(x11.warnings.front().starts_with("QEMU shows its window by an X server"));
}

TEST_CASE("plan: a window that nobody would see is refused", "[plan]") {
  CHECK(refusal([] { plan_of(kGtk); }) ==
        "10: Cannot show a window: neither WAYLAND_DISPLAY nor DISPLAY names a server of this "
        "machine; type: echo \"$WAYLAND_DISPLAY\" \"$DISPLAY\"");
  CHECK(refusal([] { plan_of(kGtk, with(kBoth), kPureRoot); }) ==
        "10: Cannot show a window: QEMU runs as a uid of its own, and the desktop is another "
        "user's; take \"display\": {\"spice\": \"127.0.0.1:5930\"}, or let its user start the run");
  survey::Survey others = with(kBoth);
  others.run_as = kBerta;
  const Json config = {{"display", "gtk"}, {"run_as", "berta"}};
  CHECK(refusal([&] {
          static_cast<void>(make_plan(load(config.dump()), others, kSudo, Authority::root));
        }).starts_with("10: Cannot show a window: QEMU runs as berta"));
}

void listen_at(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const base::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  base::check(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              "make a socket");
}

TEST_CASE("survey: the server of windows is what the environment names, on this machine",
          "[survey]") {
  const vmlaunch::tests::PciTree tree;
  for (const char* folder : {"/tmp/.X11-unix", "/run/user/1000", "/home/anna"}) {
    tree.folder(folder);
  }
  listen_at(tree.path_of("/tmp/.X11-unix/X1"));
  listen_at(tree.path_of("/run/user/1000/wayland-0"));
  tree.write("/run/user/1000/wayland-1", "a file");
  tree.write("/home/anna/.Xauthority", "cookies");
  tree.write("/home/anna/other", "cookies");
  using Variables = std::map<std::string, std::string>;
  const auto found = [&](Variables variables) {
    return survey::look_for_window_server(tree.tree(),
                                          [&](const char* name) { return variables[name]; });
  };
  CHECK(found({}) == survey::WindowServer{});
  const std::string run = "/run/user/1000";
  CHECK(found({{"WAYLAND_DISPLAY", "wayland-0"}, {"XDG_RUNTIME_DIR", run}}).wayland ==
        run + "/wayland-0");
  CHECK(found({{"WAYLAND_DISPLAY", run + "/wayland-0"}}).wayland == run + "/wayland-0");
  for (const Variables& variables : {Variables{{"WAYLAND_DISPLAY", "wayland-0"}},
                                     Variables{{"XDG_RUNTIME_DIR", run}},
                                     Variables{{"WAYLAND_DISPLAY", run + "/wayland-1"}},
                                     Variables{{"DISPLAY", ":0"}},
                                     Variables{{"DISPLAY", ":"}},
                                     Variables{{"DISPLAY", ":x"}},
                                     Variables{{"DISPLAY", ":1/../X1"}},
                                     Variables{{"DISPLAY", "other:1"}},
                                     Variables{{"DISPLAY", ":1."}},
                                     Variables{{"DISPLAY", ":1.0.0"}},
                                     Variables{{"DISPLAY", ":1.\033]0;"}},
                                     Variables{{"DISPLAY", "1"}}}) {
    CHECK(found(variables) == survey::WindowServer{});
  }
  CHECK(found({{"DISPLAY", ":1.0"}, {"HOME", "/home/anna"}}) ==
        survey::WindowServer{"", "/tmp/.X11-unix/X1", ":1.0", "/home/anna/.Xauthority"});
  CHECK(found({{"DISPLAY", ":1"}, {"HOME", "/home/anna"}, {"XAUTHORITY", "/home/anna/other"}})
            .authority == "/home/anna/other");
  for (const char* path :
       {"/home/anna/none", "/home/anna", "/home/anna/", "/home/../home/anna/other", "other"}) {
    INFO(path);
    CHECK(found({{"DISPLAY", ":1"}, {"XAUTHORITY", path}}).authority.empty());
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::plan
