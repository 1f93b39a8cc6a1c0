#include "launcher/survey/links.hpp"

#include <linux/if.h>
#include <linux/if_arp.h>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

unsigned flags_of(const base::Tree& tree, const std::string& folder) {
  const std::string text = tree.read(folder + "/flags").value_or("0x0");
  return base::parse_number<unsigned>(text.substr(text.starts_with("0x") ? 2 : 0), 16).value_or(0);
}

}  // namespace

bool has_steady_address(const base::Tree& tree, const std::string& bridge) {
  const std::string folder = "/sys/class/net/" + bridge;
  // 3 is NET_ADDR_SET: somebody chose the address.
  return tree.read(folder + "/addr_assign_type") == "3" || !tree.list(folder + "/brif").empty();
}

std::map<std::string, Link> look_at_links(const base::Tree& tree,
                                          const std::vector<config::VmSpec::Nic>& nics) {
  std::map<std::string, Link> links;
  for (const config::VmSpec::Nic& nic : nics) {
    const std::string folder = "/sys/class/net/" + nic.link;
    if (nic.kind == config::NicKind::user || !tree.exists(folder)) {
      continue;
    }
    Link& link = links[nic.link];
    link.ethernet = tree.read(folder + "/type") == std::to_string(ARPHRD_ETHER);
    link.bridge = tree.exists(folder + "/bridge");
    link.tap = tree.exists(folder + "/tun_flags");
    link.wireless = tree.exists(folder + "/phy80211") || tree.exists(folder + "/wireless");
    link.steady = !link.bridge || has_steady_address(tree, nic.link);
    link.up = (flags_of(tree, folder) & IFF_UP) != 0;
  }
  return links;
}

}  // namespace vmlaunch::launcher::survey
