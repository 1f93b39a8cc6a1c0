#include "launcher/plan/arguments.hpp"
#include "launcher/plan/network.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::VmSpec;

Json user_backend(const VmSpec::Nic& nic) {
  Json backend = {{"type", "user"}};
  Json forwards = Json::array();
  for (const config::PortForward& forward : nic.forwards) {
    forwards.push_back(
        {{"str",
          std::string(forward.protocol == config::PortForward::Protocol::tcp ? "tcp" : "udp") +
              ":" + forward.host_address + ":" + std::to_string(forward.host_port) +
              "-:" + std::to_string(forward.guest_port)}});
  }
  if (!forwards.empty()) {
    backend["hostfwd"] = forwards;
  }
  return backend;
}

Json tap_backend(const VmSpec::Nic& nic, const survey::Survey& survey, unsigned index) {
  Json backend = {{"type", "tap"}, {"fd", std::to_string(steps::tap_fd(index))}};
  if (uses_vhost(nic, survey)) {
    backend["vhost"] = true;
    backend["vhostfd"] = std::to_string(steps::vhost_fd(index));
  }
  return backend;
}

void take_rights(Arguments& args, const VmSpec::Nic& nic) {
  args.need_calls(nic.kind == config::NicKind::user ? "user-network" : "tap");
  if (nic.kind == config::NicKind::user) {
    args.need_network();
    args.share("/etc/resolv.conf");
  }
  if (uses_vhost(nic, args.survey)) {
    args.need_calls("vhost-net");
  }
}

void nic(Arguments& args, const VmSpec::Nic& nic, std::size_t index) {
  const std::string number = std::to_string(index);
  take_rights(args, nic);
  Json backend = nic.kind == config::NicKind::user
                     ? user_backend(nic)
                     : tap_backend(nic, args.survey, static_cast<unsigned>(index));
  backend["id"] = "net" + number;
  args.add_json("-netdev", backend);
  Json front = args.device(nic.model == config::NicModel::virtio ? "virtio-net-pci" : "e1000e",
                           "nic" + number,
                           kFirstNicSlot + index);
  front["netdev"] = "net" + number;
  front["romfile"] = "";  // guests boot from disks and kernels
  if (nic.mac) {
    front["mac"] = nic.mac->text;
  }
  args.add_json("-device", front);
}

}  // namespace

void add_network(Arguments& args) {
  for (std::size_t i = 0; i < args.spec.network.size(); ++i) {
    nic(args, args.spec.network[i], i);
  }
}

}  // namespace vmlaunch::launcher::plan
