#include "base/text.hpp"
#include "launcher/steps/nic_change.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Makes a macvtap for a NIC on a link of the host: the guest is in the link's network with an
/// address of its own.
class MakeMacvtap final : public OwnLinkChange {
 public:
  using OwnLinkChange::OwnLinkChange;

  const char* kind() const override { return "make-macvtap"; }

  Step read(Fields& fields) const override { return read_own(fields, make_macvtap); }

  std::string describe() const override {
    return "make the macvtap " + name() + " on " + link() + " for NIC " +
           std::to_string(part().nic);
  }
  std::string describe_undo() const override { return "it is removed"; }

  void check(const Host& host) const override {
    require_link(host);
    require_free(host, name());
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    check(host);
    return {{"index", 0U}};
  }

  void apply(Host& host,
             const Context& context,
             const Json& /*found*/,
             const Note& note) const override {
    host.add_macvtap(name(), link(), mac());
    const unsigned index = index_now(host);
    note({{"index", index}});
    give(host,
         context,
         base::open_file(host.tree().path_of("/dev/tap" + std::to_string(index)), O_RDWR));
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const auto ours = static_cast<unsigned>(fields.number("index", 0, INT32_MAX));
    if (!host.tree().exists(link_folder(name()))) {
      return;
    }
    const unsigned now = index_now(host);
    // Killed before its number was known it is ours by its kind and address.
    const bool alike = host.tree().exists(link_folder(name()) + "/macvtap") &&
                       host.tree().read(link_folder(name()) + "/address") == mac();
    if (!alike || (ours != 0 && now != ours)) {
      throw ChangedMeanwhile("the network link " + name() +
                             " is not the one that was made; type: ip -d link show " + name());
    }
    host.remove_link(now);
  }

 private:
  [[nodiscard]] unsigned index_now(const Host& host) const {
    const auto text = host.tree().read(link_folder(name()) + "/ifindex");
    const auto index = text ? base::parse_number<unsigned>(*text) : std::nullopt;
    if (!index) {
      throw Failure(ExitCode::failed,
                    "Cannot find the network link " + name() + "; type: ip -d link show " + name());
    }
    return *index;
  }
};

}  // namespace

Step make_macvtap(std::string vm, NicPart part, std::string mac) {
  return Step(std::make_shared<MakeMacvtap>(std::move(vm), std::move(part), std::move(mac)));
}

}  // namespace vmlaunch::launcher::steps
