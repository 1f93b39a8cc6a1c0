#include <array>
#include <memory>

#include "base/text.hpp"
#include "launcher/steps/pci_paths.hpp"
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
class KeepAwake final : public Change {
 public:
  explicit KeepAwake(const base::PciAddress& device) : device_(device) {}

  const char* kind() const override { return "keep-awake"; }

  Step read(Fields& fields) const override { return keep_awake(read_address(fields, "device")); }
  void write(Json& json) const override { json["device"] = base::to_string(device_); }

  std::string describe() const override {
    return "keep " + base::to_string(device_) + " awake: power/control on, d3cold_allowed 0";
  }
  std::string describe_undo() const override { return "both as they were"; }
  std::string object() const override { return base::to_string(device_); }
  std::string reserves() const override { return base::to_string(device_); }

  void check(const Host& host) const override { require_device(host, device_); }

  Json capture(const Host& host, const Context& /*context*/) const override {
    Json found = Json::object();
    for (const Setting& setting : kSettings) {
      found[setting.key] = host.tree().read(device_folder(device_) + setting.file).value_or("");
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
        host.write(device_folder(device_) + setting.file, setting.ours);
      }
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    require_still_there(host, device_);
    for (const Setting& setting : kSettings) {
      const std::string before = read_word(fields, setting.key);
      const std::string path = device_folder(device_) + setting.file;
      // Each has two values, and drivers set them too when they take a device or let it go, which
      // was our doing: nothing tells somebody else's change.
      if (!before.empty() && host.tree().read(path).value_or(before) != before) {
        host.write(path, before);
      }
    }
  }

 private:
  base::PciAddress device_;
};

}  // namespace

Step keep_awake(const base::PciAddress& device) {
  return Step(std::make_shared<KeepAwake>(device));
}

}  // namespace vmlaunch::launcher::steps
