#include <set>
#include <utility>

#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

VmSpec::Nic make_nic(const Config::Nic& given, const std::string& pointer, Review& review) {
  VmSpec::Nic nic;
  if (given.kinds.empty()) {
    review.report(
        pointer + "/user",
        "missing: {} for user networking; or \"bridge\", \"tap\" or \"macvtap\" with the name "
        "of a network link of the host");
  } else {
    nic.kind = given.kinds.front();
  }
  for (std::size_t i = 1; i < given.kinds.size(); ++i) {
    review.report(child(pointer, to_string(given.kinds[i])),
                  std::string("a NIC has one way to the host, and this one has \"") +
                      to_string(nic.kind) + "\" already");
  }
  nic.link = given.link.value_or("");
  nic.model = given.model.value_or(NicModel::virtio);
  nic.mac = given.mac;
  return nic;
}

}  // namespace

void check_network(const Config& config, VmSpec& spec, Review& review) {
  if (config.network.size() > kMostNics) {
    review.report("/network", "at most " + std::to_string(kMostNics) + " NICs are possible");
  }
  std::set<std::pair<PortForward::Protocol, std::uint16_t>> ports;
  std::set<MacAddress> macs;
  std::set<std::string> taps;
  for (std::size_t i = 0; i < config.network.size(); ++i) {
    const Config::Nic& given = config.network[i];
    const std::string pointer = child("/network", i);
    VmSpec::Nic nic = make_nic(given, pointer, review);
    if (nic.kind != NicKind::user && !nic.mac && !review.unread(pointer + "/mac")) {
      nic.mac = made_mac_address(spec.name, i);
    }
    if (nic.mac && !macs.insert(*nic.mac).second) {
      review.report(pointer + "/mac", "another NIC has this address, " + nic.mac->text);
    }
    if (nic.kind == NicKind::tap && !nic.link.empty() && !taps.insert(nic.link).second) {
      review.report(pointer + "/tap", "another NIC has this tap");
    }
    for (std::size_t k = 0; k < given.forwards.size(); ++k) {
      const std::optional<PortForward>& forward = given.forwards[k];
      if (!forward) {
        continue;
      }
      if (!ports.insert({forward->protocol, forward->host_port}).second) {
        review.report(child(pointer + "/user/forwards", k),
                      "host port " + std::to_string(forward->host_port) + " is forwarded twice");
      }
      nic.forwards.push_back(*forward);
    }
    spec.network.push_back(std::move(nic));
  }
}

}  // namespace vmlaunch::launcher::config
