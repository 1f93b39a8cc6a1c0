#include <linux/capability.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/steps/device_change.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/bar.hpp"
#include "launcher/survey/screen.hpp"

namespace vmlaunch::launcher::steps {

namespace {

struct Range {
  std::uint64_t first = 0;
  std::uint64_t last = 0;  ///< inclusive
};

std::optional<std::uint64_t> parse_hex(std::string_view text) {
  return base::parse_number<std::uint64_t>(text, 16);
}

/// Names under which firmware framebuffers and their drivers claim memory.
bool is_framebuffer_claim(std::string_view name) {
  constexpr std::array<std::string_view, 6> kNames = {
      "BOOTFB", "efifb", "vesafb", "simplefb", "simpledrm", "framebuffer"};
  for (const std::string_view known : kNames) {
    if (name.find(known) != std::string_view::npos) {
      return true;
    }
  }
  return false;
}

/// "  c0000000-c0ffffff : BOOTFB", of any depth. To who lacks CAP_SYS_ADMIN all addresses are 0.
std::vector<Range> framebuffer_ranges(const Host& host) {
  std::vector<Range> ranges;
  const std::string text = host.tree().read("/proc/iomem").value_or("");
  for (const std::string& line : base::split(text, '\n')) {
    const std::size_t start = std::min(line.find_first_not_of(' '), line.size());
    const std::size_t dash = line.find('-', start);
    const std::size_t colon = line.find(" : ", start);
    if (colon == std::string::npos || dash > colon ||
        !is_framebuffer_claim(line.substr(colon + 3))) {
      continue;
    }
    const auto first = parse_hex(line.substr(start, dash - start));
    const auto last = parse_hex(line.substr(dash + 1, colon - dash - 1));
    if (first && last && *last != 0) {
      ranges.push_back({*first, *last});
    }
  }
  return ranges;
}

bool lies_in(const Host& host, const base::PciAddress& device) {
  const auto resource = host.tree().read(device_folder(device) + "/resource");
  const auto bars = survey::parse_bars(resource.value_or("")).value_or(std::vector<survey::Bar>());
  for (const Range& claim : framebuffer_ranges(host)) {
    for (const survey::Bar& bar : bars) {
      const std::uint64_t last = bar.start + (bar.size.bytes - 1);
      if (bar.is_memory && bar.start <= claim.first && claim.last <= last) {
        return true;
      }
    }
  }
  return false;
}

/// Takes the driver from the firmware's framebuffer, which keeps the card's memory claimed, if it
/// lies in a device's memory.
class ReleaseFramebuffer final : public Change {
 public:
  ReleaseFramebuffer(std::string name, const base::PciAddress& device)
      : name_(std::move(name)), device_(device) {}

  const char* kind() const override { return "release-framebuffer"; }
  std::vector<int> capabilities() const override {
    return {CAP_SYS_ADMIN};
  }  // to see addresses in /proc/iomem

  Step read(Fields& fields) const override {
    std::string name = fields.text("framebuffer");
    if (!survey::is_firmware_framebuffer(name)) {
      throw FormError("not a firmware's framebuffer");
    }
    return release_framebuffer(std::move(name), read_address(fields, "device"));
  }

  void write(Json& json) const override {
    json["framebuffer"] = name_;
    json["device"] = base::to_string(device_);
  }

  std::string describe() const override {
    return "release the firmware's framebuffer " + name_ + " if it lies in " +
           base::to_string(device_);
  }
  std::string describe_undo() const override {
    return "bound again, which some kernels refuse before the next boot";
  }
  std::string object() const override { return name_; }

  /// The driver; "" for one that is not this card's, or has none: it is left alone.
  Json capture(const Host& host, const Context& /*context*/) const override {
    return {{"driver", lies_in(host, device_) ? driver(host) : ""}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& /*note*/) const override {
    if (const std::string driver = Fields(found).text("driver"); !driver.empty()) {
      host.write_to_driver(attribute(driver, "unbind"), name_);
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::string before = read_driver(fields, "driver");
    const std::string now = driver(host);
    if (before.empty() || now == before) {
      return;
    }
    if (!now.empty()) {
      throw ChangedMeanwhile(name_ + " has the driver " + base::printable(now) + ", had " + before);
    }
    std::string cause;
    try {
      host.write_to_driver(attribute(before, "bind"), name_);
    } catch (const std::system_error& error) {
      cause = std::string(": ") + error.what();
    }
    if (driver(host) != before) {
      throw Lost("the kernel does not take it back before the next boot" + cause);
    }
  }

 private:
  std::string driver(const Host& host) const {
    return host.tree().link_name("/sys/bus/platform/devices/" + name_ + "/driver").value_or("");
  }

  static std::string attribute(const std::string& driver, const char* name) {
    return "/sys/bus/platform/drivers/" + driver + "/" + name;
  }

  std::string name_;
  base::PciAddress device_;
};

}  // namespace

Step release_framebuffer(std::string name, const base::PciAddress& device) {
  return Step(std::make_shared<ReleaseFramebuffer>(std::move(name), device));
}

}  // namespace vmlaunch::launcher::steps
