#include "launcher/plan/network.hpp"

#include <vector>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::NicKind;
using Nic = config::VmSpec::Nic;

std::string needs_root(const Nic& nic) {
  return "Cannot make a " +
         std::string(nic.kind == NicKind::bridge ? "tap on the bridge " : "macvtap on ") +
         nic.link +
         " without root; type: sudo vmlaunch …, or let root make a tap for you, and name it with "
         "\"tap\": sudo ip tuntap add dev tap0 mode tap user $USER" +
         (nic.kind == NicKind::bridge ? " && sudo ip link set tap0 master " + nic.link + " up"
                                      : "");
}

/// Why the link cannot serve; "" if it can.
std::string find_obstacle(const Nic& nic, const survey::Survey& survey, bool privileged) {
  const auto found = survey.links.find(nic.link);
  if (found == survey.links.end()) {
    return "Cannot find the network link " + nic.link + "; type: ip -br link";
  }
  const survey::Link& link = found->second;
  if (nic.kind == NicKind::tap) {
    return link.tap
               ? ""
               : "Cannot use " + nic.link +
                     " as a tap: it is another kind of link; type: ip -d link show " + nic.link;
  }
  if (nic.kind == NicKind::bridge && !link.bridge) {
    return "Cannot use " + nic.link +
           " as a bridge: it is another kind of link; type: ip -d link show type bridge";
  }
  if (nic.kind == NicKind::macvtap && (!link.ethernet || link.wireless)) {
    return "Cannot make a macvtap on " + nic.link + ": it is " +
           (link.wireless ? "wireless, and carries one MAC address only" : "no Ethernet link") +
           "; type: ip -br link";
  }
  return privileged ? "" : needs_root(nic);
}

steps::Step step_for(const std::string& vm, const Nic& nic, const steps::NicPart& part) {
  switch (nic.kind) {
    case NicKind::bridge:
      return steps::make_tap(vm, part, nic.mac->text);
    case NicKind::macvtap:
      return steps::make_macvtap(vm, part, nic.mac->text);
    case NicKind::tap:
    case NicKind::user:
      break;
  }
  return steps::use_tap(part);
}

void warn(const Nic& nic, std::size_t index, const survey::Survey& survey, Plan& plan) {
  const std::string name = "NIC " + std::to_string(index);
  if (nic.kind != NicKind::tap && !survey.links.at(nic.link).up) {
    plan.warnings.push_back(name + " reaches nothing: " + nic.link +
                            " is down; to change that: ip link set " + nic.link + " up");
  }
  if (!survey.links.at(nic.link).steady) {
    plan.warnings.push_back(nic.link +
                            ", which has no port, keeps its address for good from now on: else it "
                            "would have this VM's tap's, and none after it");
  }
  if (nic.model == config::NicModel::virtio && !survey.vhost_net) {
    plan.warnings.push_back(name +
                            " is slower than it could be: there is no /dev/vhost-net for this run; "
                            "to change that: modprobe vhost_net");
  }
}

}  // namespace

bool uses_vhost(const Nic& nic, const survey::Survey& survey) {
  return nic.kind != NicKind::user && nic.model == config::NicModel::virtio && survey.vhost_net;
}

void add_network_steps(const config::VmSpec& spec,
                       const survey::Survey& survey,
                       const Identity& identity,
                       Plan& plan) {
  std::vector<std::string> problems;
  for (std::size_t i = 0; i < spec.network.size(); ++i) {
    const Nic& nic = spec.network[i];
    if (nic.kind == NicKind::user) {
      continue;
    }
    if (std::string problem = find_obstacle(nic, survey, identity.privileged); !problem.empty()) {
      problems.push_back(std::move(problem));
      continue;
    }
    const steps::NicPart part{static_cast<unsigned>(i), nic.link, uses_vhost(nic, survey)};
    plan.steps.push_back(step_for(spec.name, nic, part));
    warn(nic, i, survey, plan);
  }
  if (!problems.empty()) {
    throw Failure(ExitCode::preflight, base::join(problems, "\n"));
  }
}

}  // namespace vmlaunch::launcher::plan
