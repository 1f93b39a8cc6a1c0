#include <linux/if_tun.h>

#include <cerrno>
#include <system_error>

#include "base/text.hpp"
#include "launcher/steps/nic_change.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Opens a tap that is there already, with the right of whoever runs it.
class UseTap final : public NicChange {
 public:
  using NicChange::NicChange;

  const char* kind() const override { return "use-tap"; }

  Step read(Fields& fields) const override { return use_tap(read_part(fields)); }

  std::string describe() const override {
    return "open the tap " + link() + " for NIC " + std::to_string(part().nic);
  }
  std::string describe_undo() const override { return "closed"; }
  std::string object() const override { return link(); }
  std::vector<std::string> reserves() const override { return {"tap:" + link()}; }

  void check(const Host& host) const override {
    require_tun(host);
    require_link(host);
    if ((flags(host) & IFF_TAP) == 0) {
      throw Failure(ExitCode::preflight,
                    "Cannot use " + link() +
                        ": it is no tap; to make one, type: sudo ip tuntap add dev " + link() +
                        " mode tap user $USER");
    }
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    check(host);
    return Json::object();
  }

  void apply(Host& host,
             const Context& context,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    try {
      give(host, context, host.open_tap(link(), (flags(host) & IFF_MULTI_QUEUE) != 0));
    } catch (const std::system_error& error) {
      if (error.code().value() == EPERM) {
        throw Failure(ExitCode::preflight,
                      "Cannot open the tap " + link() +
                          ": it is another user's; type: sudo ip tuntap del dev " + link() +
                          " mode tap && sudo ip tuntap add dev " + link() +
                          " mode tap user $USER, or: sudo vmlaunch …");
      }
      throw;
    }
  }

  void undo(Host& /*host*/, const Json& /*found*/) const override {}

 private:
  /// IFF_… of <linux/if_tun.h>; 0 for what is no tun and no tap.
  [[nodiscard]] unsigned flags(const Host& host) const {
    const std::string text = host.tree().read(link_folder(link()) + "/tun_flags").value_or("0x0");
    return base::parse_number<unsigned>(text.substr(text.starts_with("0x") ? 2 : 0), 16)
        .value_or(0);
  }
};

}  // namespace

Step use_tap(NicPart part) {
  return Step(std::make_shared<UseTap>(std::move(part)));
}

}  // namespace vmlaunch::launcher::steps
