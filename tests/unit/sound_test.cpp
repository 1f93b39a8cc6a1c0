#include <set>
#include <string>

#include "launcher/survey/survey.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

TEST_CASE("survey: a sound server is a socket, a user's or the one that the config names",
          "[survey]") {
  const tests::PciTree tree;
  for (const char* folder : {"/run/user/1000/pulse", "/run/user/1001/pulse", "/run/user/1002"}) {
    tree.folder(folder);
  }
  tests::make_socket(tree.path_of("/run/user/1000/pulse/native"));
  tree.write("/run/user/1001/pulse/native", "a file");
  tests::make_socket(tree.path_of("/run/mine"));
  config::VmSpec spec;
  CHECK(look(tree.root(), spec, true).sound_servers.empty());
  spec.audio = config::VmSpec::Audio{};
  CHECK(look(tree.root(), spec, true).sound_servers ==
        std::set<std::string>{"/run/user/1000/pulse/native"});
  spec.audio->server = "/run/mine";
  CHECK(look(tree.root(), spec, true).sound_servers ==
        std::set<std::string>{"/run/mine", "/run/user/1000/pulse/native"});
  spec.audio->server = "/run/nowhere";
  CHECK(look(tree.root(), spec, true).sound_servers ==
        std::set<std::string>{"/run/user/1000/pulse/native"});
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
