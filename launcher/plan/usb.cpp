#include "launcher/plan/usb.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "launcher/plan/problems.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::UsbRule;
using survey::UsbDevice;

/// "1-2 (046d:c051)"
std::string shown(const UsbDevice& device) {
  return device.name() + " (" + to_string(device.ids) + ")";
}

/// Finds what each entry means, and says why it cannot be given.
class Judge {
 public:
  Judge(const survey::Survey& survey, const Identity& identity, const Plan& plan)
      : survey_(survey), identity_(identity), plan_(plan) {}

  void judge(const std::vector<config::VmSpec::Usb>& entries) {
    for (const config::VmSpec::Usb& entry : entries) {
      refuse_if_had(entry.device);
      const std::vector<UsbDevice> found = survey_.usb.find(entry.device);
      if (found.size() > 1) {
        refuse_ambiguous(entry.device, found);
      } else if (found.size() == 1) {
        judge(entry.device, found.front());
      } else if (!entry.optional) {
        problems_.add(ExitCode::preflight,
                      "Cannot find the USB device " + to_string(entry.device) +
                          (std::holds_alternative<config::UsbAddress>(entry.device)
                               ? "; its address is another one each time that it is plugged in: "
                                 "name it by \"device\" or \"port\""
                               : "; plug it in, or set \"optional\": true for one that may come "
                                 "later") +
                          "; type: vmlaunch host");
      }
    }
    refuse_last_keyboard();
    problems_.throw_if_any();
  }

 private:
  /// By the same rule: whether it is plugged in or not.
  void refuse_if_had(const UsbRule& rule) {
    if (const auto had = survey_.usb_had.find(rule); had != survey_.usb_had.end()) {
      refuse_had("the USB device " + to_string(rule), had->second);
    }
  }

  void refuse_had(const std::string& what, const std::string& by) {
    problems_.add(ExitCode::held, "Cannot take " + what + ": " + by + "; stop that first");
  }

  void refuse_ambiguous(const UsbRule& rule, const std::vector<UsbDevice>& found) {
    std::string text = "Cannot tell which USB device \"" + to_string(rule) +
                       "\" means: there are " + std::to_string(found.size());
    for (const UsbDevice& device : found) {
      text.append("\n  ").append(shown(device));
    }
    problems_.add(ExitCode::preflight, text + "\n  name one of them by its \"port\"");
  }

  void refuse(ExitCode code, const UsbDevice& device, const std::string& why) {
    problems_.add(code, "Cannot give the USB device " + shown(device) + " to the guest: " + why);
  }

  void judge(const UsbRule& rule, const UsbDevice& device) {
    const auto [taken, is_new] = taken_.emplace(device.name(), rule);
    if (!is_new) {
      refuse(
          ExitCode::preflight,
          device,
          "the config lists it twice, as " + to_string(taken->second) + " and " + to_string(rule));
      return;
    }
    if (device.is_hub()) {
      refuse(ExitCode::preflight, device, "it is a hub; list what is plugged into it");
      return;
    }
    for (const auto& [other, by] : survey_.usb_had) {
      if (other != rule && matches(other, device)) {
        refuse_had("the USB device " + shown(device), by);
      }
    }
    refuse_if_on_given_controller(device);
    refuse_if_open(device);
    refuse_if_closed_to_caller(device);
    for (const survey::Use& use : survey_.uses.uses) {
      if (use.place.usb == device.name()) {
        refuse(ExitCode::preflight, device, use.what + "; " + use.advice);
      }
    }
  }

  void refuse_if_on_given_controller(const UsbDevice& device) {
    const std::optional<base::PciAddress> controller = controller_of(device);
    if (controller && goes(*controller)) {
      refuse(ExitCode::preflight,
             device,
             "its controller " + base::to_string(*controller) +
                 " is taken from the host by the config's \"pci\", and all that is on it with it");
    }
  }

  [[nodiscard]] std::optional<base::PciAddress> controller_of(const UsbDevice& device) const {
    for (const survey::UsbBus& bus : survey_.usb.buses) {
      if (bus.number == device.port.bus) {
        return bus.controller;
      }
    }
    return std::nullopt;
  }

  /// Whether the host loses a PCI function for the time of the run.
  [[nodiscard]] bool goes(const base::PciAddress& address) const {
    for (const Group& group : plan_.passthrough.groups) {
      for (const GroupMember& member : group.members) {
        if (member.address == address && member.verdict == Verdict::must_bind) {
          return true;
        }
      }
    }
    return false;
  }

  /// A program that has taken an interface does not give it to QEMU.
  void refuse_if_open(const UsbDevice& device) {
    const bool is_open = std::any_of(
        device.interfaces.begin(),
        device.interfaces.end(),
        [](const survey::UsbInterface& interface) { return interface.driver == "usbfs"; });
    if (is_open) {
      refuse(ExitCode::device_busy,
             device,
             "a program uses it; type: sudo fuser -v /dev/" + device.node());
    }
  }

  void refuse_if_closed_to_caller(const UsbDevice& device) {
    if (identity_.privileged || survey_.open_usb.contains(device.name())) {
      return;
    }
    problems_.add(ExitCode::preflight,
                  "Cannot open /dev/" + device.node() + ", the USB device " + shown(device) +
                      "; have udev give it to you with a line in "
                      "/etc/udev/rules.d/70-vmlaunch.rules: SUBSYSTEM==\"usb\", "
                      "ATTR{idVendor}==\"" +
                      base::hex(device.ids.vendor, 4) + "\", ATTR{idProduct}==\"" +
                      base::hex(device.ids.product, 4) +
                      "\", TAG+=\"uaccess\"; or type: sudo vmlaunch …");
  }

  /// Those that go with a PCI controller alone were judged with it.
  void refuse_last_keyboard() {
    const survey::Uses& uses = survey_.uses;
    const auto is_lent = [&](const survey::Place& place) { return taken_.contains(place.usb); };
    const bool any_stays =
        std::any_of(uses.keyboards.begin(), uses.keyboards.end(), [&](const survey::Place& place) {
          return !is_lent(place) && !goes(place.device);
        });
    if (uses.other_keyboard || any_stays) {
      return;
    }
    for (const survey::Place& place : uses.keyboards) {
      if (is_lent(place)) {
        problems_.add(ExitCode::preflight,
                      "Cannot take the USB device " + place.usb +
                          " from the host: it is the host's only keyboard; plug in another, to "
                          "stop the guest with");
      }
    }
  }

  const survey::Survey& survey_;
  const Identity& identity_;
  const Plan& plan_;
  std::map<std::string, UsbRule> taken_;  ///< devices, with the rule by which each was found
  Problems problems_;
};

}  // namespace

void add_usb_steps(const config::VmSpec& spec,
                   const survey::Survey& survey,
                   const Identity& identity,
                   Plan& plan) {
  Judge(survey, identity, plan).judge(spec.usb);
  for (const config::VmSpec::Usb& entry : spec.usb) {
    if (survey.usb.find(entry.device).empty()) {
      plan.warnings.push_back("the USB device " + to_string(entry.device) +
                              " is not there: the guest gets it when it is plugged in");
    }
    plan.steps.push_back(steps::lend_usb(entry.device, entry.optional));
  }
}

}  // namespace vmlaunch::launcher::plan
