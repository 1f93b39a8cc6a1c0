#include "launcher/survey/print.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using nlohmann::json;

std::string hex(std::uint32_t value, std::size_t digits) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text(digits, '0');
  for (auto digit = text.rbegin(); digit != text.rend(); ++digit, value >>= 4U) {
    *digit = kDigits[value & 0xfU];
  }
  return text;
}

std::uint16_t class_and_subclass(const PciFunction& function) {
  return static_cast<std::uint16_t>(function.class_code >> 8U);
}

/// In the words of lspci -nn.
std::string describe(const PciFunction& function, const PciNames& names) {
  std::vector<std::string> words = {to_string(function.address)};
  const auto add_name = [&](const std::optional<std::string>& name) {
    if (name) {
      words.push_back(*name);
    }
  };
  const std::uint16_t number = class_and_subclass(function);
  add_name(names.device_class(number));
  words.push_back("[" + hex(number, 4) + "]:");
  add_name(names.vendor(function.vendor));
  add_name(names.device(function.vendor, function.device));
  words.push_back("[" + hex(function.vendor, 4) + ":" + hex(function.device, 4) + "]");
  words.push_back("(rev " + hex(function.revision, 2) + ")");
  std::string text = base::join(words, " ");
  text += function.driver ? ", driver " + *function.driver : ", no driver";
  if (!function.reset_methods.empty()) {
    text += ", reset " + base::join(function.reset_methods, " ");
  }
  if (function.boot_vga) {
    text += ", the firmware's screen";
  }
  return text;
}

void add_members(std::string& text,
                 const std::vector<const PciFunction*>& members,
                 const PciNames& names) {
  for (const PciFunction* member : members) {
    text += member->reset_methods.empty() ? "          " : "  [RESET] ";
    text += base::printable(describe(*member, names)) + "\n";
  }
}

json or_null(const std::optional<std::string>& text) {
  return text ? json(*text) : json();
}

}  // namespace

std::string to_text(const Pci& host, const PciNames& names) {
  std::set<unsigned> groups;
  std::vector<const PciFunction*> alone;
  for (const PciFunction& function : host.functions) {
    if (function.iommu_group) {
      groups.insert(*function.iommu_group);
    } else {
      alone.push_back(&function);
    }
  }
  const std::optional<bool> iommu = host.has_iommu();
  std::string text = !iommu   ? "IOMMU: not seen\n"
                     : *iommu ? "IOMMU: on\n"
                              : "IOMMU: off; no device can be given to a guest\n";
  for (const std::string& line : host.iommu_advice()) {
    text += "  " + line + "\n";
  }
  for (const unsigned number : groups) {
    text += "\ngroup " + std::to_string(number) + "\n";
    add_members(text, host.group(number), names);
  }
  if (!alone.empty()) {
    text += "\noutside of any group\n";
    add_members(text, alone, names);
  }
  if (host.functions.empty()) {
    text += "\nno PCI devices\n";
  }
  if (!host.unseen.empty()) {
    text += "\nnot seen; root sees more\n";
    for (const std::string& line : host.unseen) {
      text += "  " + base::printable(line) + "\n";
    }
  }
  return text;
}

json to_json(const Pci& host, const PciNames& names) {
  json devices = json::array();
  for (const PciFunction& function : host.functions) {
    devices.push_back({{"address", to_string(function.address)},
                       {"group", function.iommu_group ? json(*function.iommu_group) : json()},
                       {"class", hex(function.class_code, 6)},
                       {"class_name", or_null(names.device_class(class_and_subclass(function)))},
                       {"vendor", hex(function.vendor, 4)},
                       {"vendor_name", or_null(names.vendor(function.vendor))},
                       {"device", hex(function.device, 4)},
                       {"device_name", or_null(names.device(function.vendor, function.device))},
                       {"revision", hex(function.revision, 2)},
                       {"driver", or_null(function.driver)},
                       {"bridge", function.bridge ? json(to_string(*function.bridge)) : json()},
                       {"reset_methods", function.reset_methods},
                       {"boot_vga", function.boot_vga}});
  }
  const std::optional<bool> iommu = host.has_iommu();
  return {{"iommu", iommu ? json(*iommu) : json()},
          {"advice", host.iommu_advice()},
          {"devices", devices},
          {"unseen", host.unseen}};
}

}  // namespace vmlaunch::launcher::survey
