#include "launcher/survey/screen.hpp"

#include <algorithm>
#include <array>
#include <optional>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

constexpr const char* kPlatform = "/sys/bus/platform/devices";
constexpr const char* kFramebuffers = "/sys/class/graphics";

constexpr std::array<std::string_view, 3> kFirmwareNames = {
    "efi-framebuffer.", "simple-framebuffer.", "vesa-framebuffer."};

/// The framebuffer that the kernel numbered first, on which it puts the console
/// (Documentation/fb/fbcon.rst: "the first one").
std::optional<std::string> first_framebuffer(const base::Tree& tree) {
  std::optional<unsigned> first;
  for (const std::string& name : tree.list(kFramebuffers)) {
    const auto number =
        name.starts_with("fb") ? base::parse_number<unsigned>(name.substr(2)) : std::nullopt;
    if (number && (!first || *number < *first)) {
      first = number;
    }
  }
  if (!first) {
    return std::nullopt;
  }
  return tree.resolve(std::string(kFramebuffers) + "/fb" + std::to_string(*first) + "/device");
}

}  // namespace

bool is_firmware_framebuffer(std::string_view name) {
  return std::any_of(kFirmwareNames.begin(), kFirmwareNames.end(), [&](std::string_view prefix) {
    return name.starts_with(prefix) &&
           base::parse_number<unsigned>(name.substr(prefix.size())).has_value();
  });
}

Screen look_at_screen(const base::Tree& tree, const Pci& pci) {
  Screen screen;
  const std::string first = first_framebuffer(tree).value_or("");
  for (const PciFunction& function : pci.functions) {
    const bool has_first =
        (first + "/").find("/" + to_string(function.address) + "/") != std::string::npos;
    if (function.is_display() && (function.boot_vga || has_first)) {
      screen.consoles.insert(function.address);
    }
  }
  for (const std::string& name : tree.list(kPlatform)) {
    if (is_firmware_framebuffer(name) &&
        tree.link_name(std::string(kPlatform) + "/" + name + "/driver")) {
      screen.firmware.push_back(name);
    }
  }
  return screen;
}

}  // namespace vmlaunch::launcher::survey
