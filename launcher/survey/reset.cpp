#include "launcher/survey/reset.hpp"

#include <algorithm>
#include <array>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using base::PciAddress;
using Kind = ResetOutlook::Kind;

/// On the same bus: nothing is between them and the bridge.
bool same_bus(const PciAddress& a, const PciAddress& b) {
  return a.domain == b.domain && a.bus == b.bus;
}

/// What a reset of the bus behind `bridge` would reset too, at whatever depth.
bool is_behind(const Pci& pci, const PciFunction& function, const PciAddress& bridge) {
  const PciFunction* at = &function;
  while (at != nullptr && at->bridge) {
    if (*at->bridge == bridge) {
      return true;
    }
    at = pci.find(*at->bridge);
  }
  return false;
}

/// The kernel resets a function by its bus only if nothing else is there; that it lists the method
/// means little, since it looks before a card's other functions are known.
bool is_alone(const Pci& pci, const PciFunction& function) {
  return function.bridge &&
         std::none_of(pci.functions.begin(), pci.functions.end(), [&](const PciFunction& other) {
           return other.address != function.address && is_behind(pci, other, *function.bridge);
         });
}

/// The kernel's first that can work; "" for none.
std::string method_of(const Pci& pci, const PciFunction& function) {
  for (const std::string& method : function.reset_methods) {
    if (method != "bus" || is_alone(pci, function)) {
      return method;
    }
  }
  return "";
}

Kind kind_of(const std::string& method) {
  if (method == "bus") {
    return Kind::bus;
  }
  return method == "pm" ? Kind::power : Kind::function;
}

/// Devices that vendor-reset serves: Polaris, Vega and Navi 1x.
struct Range {
  std::uint16_t first;
  std::uint16_t last;
};
constexpr std::array kVendorReset = {Range{0x66a0, 0x66af},
                                     Range{0x67c0, 0x67ff},
                                     Range{0x6860, 0x687f},
                                     Range{0x6980, 0x699f},
                                     Range{0x6fdf, 0x6fdf},
                                     Range{0x7310, 0x731f},
                                     Range{0x7340, 0x734f},
                                     Range{0x7360, 0x7362}};

}  // namespace

bool share_reset(const PciFunction& a, const PciFunction& b) {
  const bool on_bus = a.bridge && !a.is_virtual && !b.is_virtual;
  return on_bus ? same_bus(a.address, b.address) : a.address == b.address;
}

std::vector<std::string> obstacles_behind(const Pci& pci,
                                          const PciAddress& bridge,
                                          const std::set<PciAddress>& ours) {
  std::vector<std::string> obstacles;
  for (const PciFunction& function : pci.functions) {
    if (is_behind(pci, function, bridge) && !ours.contains(function.address)) {
      const std::string why = function.is_bridge() ? "a bridge"
                              : function.driver    ? "driver " + *function.driver
                                                   : "no driver";
      obstacles.push_back(base::to_string(function.address) + " (" + why + ")");
    }
  }
  return obstacles;
}

ResetOutlook reset_outlook(const Pci& pci,
                           const std::vector<PciAddress>& functions,
                           const std::set<PciAddress>& ours) {
  ResetOutlook outlook;
  outlook.kind = Kind::function;
  std::optional<PciAddress> bridge;
  for (const PciAddress& address : functions) {
    const PciFunction* function = pci.find(address);
    const std::string method = function != nullptr ? method_of(pci, *function) : "";
    if (method.empty()) {
      outlook.without.push_back(address);
      bridge = function != nullptr && !function->is_virtual ? function->bridge : std::nullopt;
    } else {
      outlook.methods.insert(method);
      outlook.kind = std::max(outlook.kind, kind_of(method));
    }
  }
  if (outlook.without.empty()) {
    return outlook;
  }
  outlook.kind = Kind::none;
  if (bridge) {
    outlook.obstacles = obstacles_behind(pci, *bridge, ours);
    outlook.kind = outlook.obstacles.empty() ? Kind::hot : Kind::blocked;
  }
  if (outlook.kind == Kind::hot || functions.size() == 1) {
    outlook.without.clear();
  }
  return outlook;
}

ResetOutlook reset_outlook(const Pci& pci, const PciFunction& function) {
  std::vector<PciAddress> together;
  for (const PciFunction& other : pci.functions) {
    // A card: what else is on its bus need not be given away with it.
    if (share_reset(function, other) && other.address.device == function.address.device &&
        !other.is_bridge()) {
      together.push_back(other.address);
    }
  }
  return reset_outlook(pci, together, {together.begin(), together.end()});
}

std::string to_string(const ResetOutlook& outlook) {
  std::vector<std::string> without;
  for (const PciAddress& address : outlook.without) {
    without.push_back(base::to_string(address));
  }
  std::string none = "no reset" + (without.empty() ? "" : " of " + base::join(without, ", "));
  const std::string methods = base::join({outlook.methods.begin(), outlook.methods.end()}, ", ");
  switch (outlook.kind) {
    case Kind::function:
      return "reset of its own (" + methods + ")";
    case Kind::power:
      return "reset by sleep and waking (" + methods + ")";
    case Kind::bus:
      return "reset by its bus, where it is alone";
    case Kind::hot:
      return "hot reset of its bus, all functions together";
    case Kind::blocked:
      return none + ": a hot reset of the bus would also reset " +
             base::join(outlook.obstacles, ", ");
    case Kind::none:
      return none;
  }
  return "";
}

bool has_vendor_reset(const PciFunction& function) {
  constexpr std::uint16_t kAmd = 0x1002;
  return function.vendor == kAmd && function.is_display() &&
         std::any_of(kVendorReset.begin(), kVendorReset.end(), [&](const Range& range) {
           return range.first <= function.device && function.device <= range.last;
         });
}

const char* to_string(Kind kind) {
  switch (kind) {
    case Kind::function:
      return "function";
    case Kind::power:
      return "power";
    case Kind::bus:
      return "bus";
    case Kind::hot:
      return "hot";
    case Kind::blocked:
      return "blocked";
    case Kind::none:
      return "none";
  }
  return "";
}

}  // namespace vmlaunch::launcher::survey
