#include "launcher/survey/window_server.hpp"

#include <map>
#include <string>

#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

TEST_CASE("survey: the server of windows is what the environment names, on this machine",
          "[survey]") {
  const tests::PciTree tree;
  for (const char* folder : {"/tmp/.X11-unix", "/run/user/1000", "/home/anna"}) {
    tree.folder(folder);
  }
  tests::make_socket(tree.path_of("/tmp/.X11-unix/X1"));
  tests::make_socket(tree.path_of("/run/user/1000/wayland-0"));
  tree.write("/run/user/1000/wayland-1", "a file");
  tree.write("/home/anna/.Xauthority", "cookies");
  tree.write("/home/anna/other", "cookies");
  using Variables = std::map<std::string, std::string>;
  const auto found = [&](Variables variables) {
    return look_for_window_server(tree.tree(), [&](const char* name) { return variables[name]; });
  };
  CHECK(found({}) == WindowServer{});
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
    CHECK(found(variables) == WindowServer{});
  }
  CHECK(found({{"DISPLAY", ":1.0"}, {"HOME", "/home/anna"}}) ==
        WindowServer{"", "/tmp/.X11-unix/X1", ":1.0", "/home/anna/.Xauthority"});
  CHECK(found({{"DISPLAY", ":1"}, {"HOME", "/home/anna"}, {"XAUTHORITY", "/home/anna/other"}})
            .authority == "/home/anna/other");
  for (const char* path :
       {"/home/anna/none", "/home/anna", "/home/anna/", "/home/../home/anna/other", "other"}) {
    INFO(path);
    CHECK(found({{"DISPLAY", ":1"}, {"XAUTHORITY", path}}).authority.empty());
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
