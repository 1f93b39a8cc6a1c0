#include "launcher/survey/links.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::launcher::survey {
namespace {

using config::NicKind;

std::map<std::string, Link> look(const tests::PciTree& tree, const std::string& name) {
  config::VmSpec::Nic nic;
  nic.kind = NicKind::bridge;
  nic.link = name;
  return look_at_links(tree.tree(), {nic});
}

TEST_CASE("links: of those that the config names each is seen as what it is", "[survey]") {
  tests::PciTree tree;
  const std::string net = "/sys/class/net/";
  tree.write(net + "eth0/type", "1\n");
  tree.write(net + "eth0/flags", "0x1003\n");
  tree.write(net + "wlan0/type", "1\n");
  tree.write(net + "wlan0/flags", "0x1002\n");
  tree.folder(net + "wlan0/phy80211");
  tree.write(net + "tap0/type", "1\n");
  tree.write(net + "tap0/tun_flags", "0x1002\n");
  tree.write(net + "lo/type", "772\n");
  CHECK(look(tree, "eth0").at("eth0") == Link{true, false, false, false, true, true});
  CHECK(look(tree, "wlan0").at("wlan0") == Link{true, false, false, true, false, true});
  CHECK(look(tree, "tap0").at("tap0") == Link{true, false, true, false, false, true});
  CHECK(look(tree, "lo").at("lo") == Link{});
  CHECK(look(tree, "eth1").empty());
  CHECK(look_at_links(tree.tree(), {config::VmSpec::Nic{}}).empty());
}

TEST_CASE("links: a bridge's address is steady if it was chosen or there is a port", "[survey]") {
  tests::PciTree tree;
  const std::string bridge = "/sys/class/net/br0";
  tree.write(bridge + "/type", "1\n");
  tree.folder(bridge + "/bridge");
  tree.write(bridge + "/addr_assign_type", "1\n");
  CHECK(look(tree, "br0").at("br0").bridge);
  CHECK_FALSE(look(tree, "br0").at("br0").steady);
  tree.folder(bridge + "/brif/eth0");
  CHECK(look(tree, "br0").at("br0").steady);
  tree.remove(bridge + "/brif/eth0");
  tree.write(bridge + "/addr_assign_type", "3\n");
  CHECK(look(tree, "br0").at("br0").steady);
}

}  // namespace
}  // namespace vmlaunch::launcher::survey
