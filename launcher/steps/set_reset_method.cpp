#include <cerrno>
#include <memory>
#include <system_error>

#include "base/text.hpp"
#include "launcher/steps/device_change.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr const char* kDeviceSpecific = "device_specific";

/// Has a device be reset in the way that is its own. The kernel looked for its methods before the
/// module that knows the way was there, and looks again when one is written.
class SetResetMethod final : public DeviceChange {
 public:
  using DeviceChange::DeviceChange;

  const char* kind() const override { return "set-reset-method"; }

  Step read(Fields& fields) const override {
    return set_reset_method(read_address(fields, "device"));
  }

  std::string describe() const override {
    return "reset " + base::to_string(device()) + " in the way of its own (device_specific)";
  }
  std::string describe_undo() const override { return "by what it was"; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    return {{"methods", wire_text(methods(host))}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    try {
      host.write(file(), kDeviceSpecific);
    } catch (const std::system_error& error) {
      // It is left with what it had, which is what it would have without the module.
      host.tell("the kernel knows no such way for " + base::to_string(device()) + ": " +
                error.what());
    }
  }

  void undo(Host& host, const Json& found) const override {
    const std::string before = Fields(found).text("methods");
    require_still_there(host, device());
    const std::string now = methods(host);
    if (now == before) {
      return;
    }
    if (now != kDeviceSpecific) {
      throw ChangedMeanwhile("the reset methods of " + base::to_string(device()) + " are \"" +
                             base::printable(now) + "\", were \"" + base::printable(before) + "\"");
    }
    try {
      host.write(file(), before);
    } catch (const std::system_error& error) {
      if (error.code().value() != EINVAL) {
        throw;
      }
      // The kernel does not take back every list that it shows: the first function of a card had
      // its methods looked for before the others were known.
      host.write(file(), "default");
      host.tell("the reset methods of " + base::to_string(device()) + " were \"" +
                base::printable(before) + "\", which the kernel takes no more: they are \"" +
                base::printable(methods(host)) + "\"");
    }
  }

 private:
  [[nodiscard]] std::string file() const { return device_folder(device()) + "/reset_method"; }
  [[nodiscard]] std::string methods(const Host& host) const {
    return host.tree().read(file()).value_or("");
  }
};

}  // namespace

Step set_reset_method(const base::PciAddress& device) {
  return Step(std::make_shared<SetResetMethod>(device));
}

}  // namespace vmlaunch::launcher::steps
