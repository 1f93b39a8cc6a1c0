#include <array>
#include <memory>

#include "base/text.hpp"
#include "launcher/steps/device_change.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// An attribute, and what it is to say
/// (Documentation/ABI/testing/sysfs-devices-power, sysfs-bus-pci).
struct Setting {
  const char* key;
  const char* file;
  const char* ours;
};
constexpr std::array kSettings = {
    Setting{"control", "/power/control", "on"},
    Setting{"d3cold", "/d3cold_allowed", "0"},
};

/// One of the kernel's own words, "" for an attribute that is not there.
std::string read_word(Fields& fields, const char* key) {
  std::string word = fields.text(key);
  if (word.size() > 8 || word.find_first_not_of("aotun01f") != std::string::npos) {
    throw FormError("not a power setting");
  }
  return word;
}

/// Keeps a device out of D3 and D3cold while the VM has it: some never come back from there.
class KeepAwake final : public DeviceChange {
 public:
  using DeviceChange::DeviceChange;

  const char* kind() const override { return "keep-awake"; }

  Step read(Fields& fields) const override { return keep_awake(read_address(fields, "device")); }

  std::string describe() const override {
    return "keep " + base::to_string(device()) + " awake: power/control on, d3cold_allowed 0";
  }
  std::string describe_undo() const override { return "both as they were"; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    Json found = Json::object();
    for (const Setting& setting : kSettings) {
      found[setting.key] = host.tree().read(device_folder(device()) + setting.file).value_or("");
    }
    return found;
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& /*note*/) const override {
    for (const Setting& setting : kSettings) {
      const auto before = found.at(setting.key).get<std::string>();
      if (!before.empty() && before != setting.ours) {
        host.write(device_folder(device()) + setting.file, setting.ours);
      }
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    require_still_there(host, device());
    for (const Setting& setting : kSettings) {
      const std::string before = read_word(fields, setting.key);
      const std::string path = device_folder(device()) + setting.file;
      // Each has two values, and drivers set them too when they take a device or let it go, which
      // was our doing: nothing tells somebody else's change.
      if (!before.empty() && host.tree().read(path).value_or(before) != before) {
        host.write(path, before);
      }
    }
  }
};

}  // namespace

Step keep_awake(const base::PciAddress& device) {
  return Step(std::make_shared<KeepAwake>(device));
}

}  // namespace vmlaunch::launcher::steps
