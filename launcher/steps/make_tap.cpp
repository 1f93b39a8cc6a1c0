#include "launcher/steps/nic_change.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Makes a tap for a NIC and puts it on a bridge. The kernel removes it with its last descriptor,
/// so with QEMU: nothing is left to undo, whatever dies.
class MakeTap final : public OwnLinkChange {
 public:
  using OwnLinkChange::OwnLinkChange;

  const char* kind() const override { return "make-tap"; }

  Step read(Fields& fields) const override { return read_own(fields, steps::make_tap); }

  std::string describe() const override {
    return "make the tap " + name() + " on the bridge " + link() + " for NIC " +
           std::to_string(part().nic);
  }
  std::string describe_undo() const override { return "it goes with QEMU"; }

  void check(const Host& host) const override {
    require_tun(host);
    require_link(host);
    require_free(host, name());
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    check(host);
    return Json::object();
  }

  void apply(Host& host,
             const Context& context,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    give(host, context, host.make_tap(name(), link(), mac()));
  }

  void undo(Host& /*host*/, const Json& /*found*/) const override {}
};

}  // namespace

Step make_tap(std::string vm, NicPart part, std::string mac) {
  return Step(std::make_shared<MakeTap>(std::move(vm), std::move(part), std::move(mac)));
}

}  // namespace vmlaunch::launcher::steps
