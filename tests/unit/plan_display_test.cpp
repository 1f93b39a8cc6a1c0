#include <algorithm>
#include <string>
#include <vector>

#include "launcher/plan/plan.hpp"
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

}  // namespace
}  // namespace vmlaunch::launcher::plan
