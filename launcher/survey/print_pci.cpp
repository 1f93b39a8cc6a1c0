#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "base/text.hpp"
#include "launcher/survey/print.hpp"
#include "launcher/survey/print_parts.hpp"
#include "launcher/survey/reset.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using base::hex;

std::uint16_t class_and_subclass(const PciFunction& function) {
  return static_cast<std::uint16_t>(function.class_code >> 8U);
}

void add_virtual(std::string& text, const PciFunction& function) {
  if (function.is_virtual) {
    text += ", virtual function";
    text += function.physical ? " of " + to_string(*function.physical) : "";
  }
  if (function.virtual_total != 0) {
    text += ", " + std::to_string(function.virtual_count) + " of " +
            std::to_string(function.virtual_total) + " virtual functions";
  }
}

void add_resizable(std::string& text, const PciFunction& function) {
  for (const Bar& bar : function.bars) {
    if (!bar.sizes.empty() && bar.sizes.back() > bar.size) {
      text += ", BAR " + std::to_string(bar.number) + " of " + about(bar.size) +
              " can have up to " + about(bar.sizes.back());
    }
  }
}

void add_members(std::string& text,
                 const std::vector<const PciFunction*>& members,
                 const Pci& pci,
                 const PciNames& names,
                 bool has_nodes) {
  for (const PciFunction* member : members) {
    const bool can_reset = !member->is_fabric() && reset_outlook(pci, *member).is_possible();
    text += can_reset ? "  [RESET] " : "          ";
    text += describe(*member, pci, names, has_nodes) + "\n";
  }
}

}  // namespace

std::string describe(const PciFunction& function,
                     const Pci& pci,
                     const PciNames& names,
                     bool with_node) {
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
  if (!function.is_fabric()) {
    text += ", " + to_string(reset_outlook(pci, function));
  }
  if (function.boot_vga) {
    text += ", the firmware's screen";
  }
  if (with_node && function.numa_node) {
    text += ", node " + std::to_string(*function.numa_node);
  }
  add_virtual(text, function);
  add_resizable(text, function);
  return base::printable(text);
}

void add_devices(std::string& text, const Host& host, const PciNames& names) {
  const bool has_nodes = host.memory.nodes.size() > 1;
  std::set<unsigned> groups;
  std::vector<const PciFunction*> alone;
  for (const PciFunction& function : host.pci.functions) {
    if (function.iommu_group) {
      groups.insert(*function.iommu_group);
    } else {
      alone.push_back(&function);
    }
  }
  for (const unsigned number : groups) {
    text += "\ngroup " + std::to_string(number) + "\n";
    add_members(text, host.pci.group(number), host.pci, names, has_nodes);
  }
  if (!alone.empty()) {
    text += "\noutside of any group\n";
    add_members(text, alone, host.pci, names, has_nodes);
  }
  if (host.pci.functions.empty()) {
    text += "\nno PCI devices\n";
  }
}

}  // namespace vmlaunch::launcher::survey
