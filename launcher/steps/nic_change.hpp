#pragma once

#include <fcntl.h>
#include <linux/capability.h>

#include <memory>
#include <string>
#include <utility>

#include "base/file.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/steps/links.hpp"
#include "launcher/steps/step.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

[[nodiscard]] inline std::string link_folder(const std::string& name) {
  return "/sys/class/net/" + name;
}

/// Gives QEMU one of its NICs' way to the host.
class NicChange : public Change {
 public:
  explicit NicChange(NicPart part) : part_(std::move(part)) {}

  std::vector<int> capabilities() const override { return {CAP_NET_ADMIN}; }
  bool is_per_qemu() const override { return true; }  // what it gives is gone with QEMU

  void write(Json& json) const override {
    json["nic"] = part_.nic;
    json["link"] = part_.link;
    json["vhost"] = part_.vhost;
  }

 protected:
  [[nodiscard]] const std::string& link() const { return part_.link; }
  [[nodiscard]] const NicPart& part() const { return part_; }

  [[nodiscard]] static NicPart read_part(Fields& fields) {
    NicPart part;
    part.nic = static_cast<unsigned>(fields.number("nic", 0, config::kMostNics - 1));
    part.link = fields.text("link");
    part.vhost = fields.boolean("vhost");
    if (!config::is_link_name(part.link)) {
      throw FormError("not a network link's name");
    }
    return part;
  }

  void give(const Host& host, const Context& context, base::UniqueFd tap) const {
    context.give(tap_fd(part_.nic), std::move(tap));
    if (part_.vhost) {
      context.give(vhost_fd(part_.nic),
                   base::open_file(host.tree().path_of("/dev/vhost-net"), O_RDWR));
    }
  }

  /// For links of ours: nobody else may have that name.
  static void require_free(const Host& host, const std::string& name) {
    if (host.tree().exists(link_folder(name))) {
      throw Failure(ExitCode::preflight,
                    "Cannot make the network link " + name +
                        ": somebody else has one of that name; type: ip -d link show " + name);
    }
  }

  static void require_tun(const Host& host) {
    if (!host.tree().exists("/dev/net/tun")) {
      throw Failure(ExitCode::preflight,
                    "Cannot open a tap: there is no /dev/net/tun; type: sudo modprobe tun");
    }
  }

  void require_link(const Host& host) const {
    if (!host.tree().exists(link_folder(part_.link))) {
      throw Failure(ExitCode::preflight,
                    "Cannot find the network link " + part_.link + "; type: ip -br link");
    }
  }

 private:
  NicPart part_;
};

/// The same for a link that is made for it.
class OwnLinkChange : public NicChange {
 public:
  OwnLinkChange(std::string vm, NicPart part, std::string mac)
      : NicChange(std::move(part)),
        vm_(std::move(vm)),
        mac_(std::move(mac)),
        name_(own_link_name(vm_, this->part().nic)) {}

  void write(Json& json) const override {
    NicChange::write(json);
    json["vm"] = vm_;
    json["mac"] = mac_;
  }
  bool fits_plan_of(const std::string& vm) const override { return vm_ == vm; }
  std::string object() const override { return name_; }

 protected:
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& mac() const { return mac_; }

  /// `make` is called with what was read.
  template <typename Make>
  [[nodiscard]] static Step read_own(Fields& fields, Make make) {
    NicPart part = read_part(fields);
    const std::string mac = fields.text("mac");
    const auto parsed = config::parse_mac_address(mac);
    if (!parsed || parsed->text != mac) {
      throw FormError("not a MAC address");
    }
    std::string vm = fields.text("vm");
    if (!config::is_vm_name(vm)) {
      throw FormError("not a VM's name");
    }
    return make(std::move(vm), std::move(part), mac);
  }

 private:
  std::string vm_;
  std::string mac_;  ///< the guest's
  std::string name_;
};

}  // namespace vmlaunch::launcher::steps
