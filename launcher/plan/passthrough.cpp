#include "launcher/plan/passthrough.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using base::PciAddress;
using config::VmSpec;
using survey::PciFunction;

/// Collects what is wrong, so that all of it is told at once.
class Problems {
 public:
  void add(ExitCode code, const std::string& text) {
    code_ = worse(code_, code);
    texts_.push_back(text);
  }
  void throw_if_any() const {
    if (!texts_.empty()) {
      throw Failure(code_, base::join(texts_, "\n"));
    }
  }

 private:
  ExitCode code_ = ExitCode::ended;
  std::vector<std::string> texts_;
};

PciAddress slot_of(PciAddress address) {
  address.function = 0;
  return address;
}

std::string ids_of(const PciFunction& function) {
  return to_string(config::PciIds{function.vendor, function.device});
}

class Chooser {
 public:
  Chooser(const std::vector<VmSpec::Pci>& wanted, const survey::Pci& pci)
      : wanted_(wanted), pci_(pci) {}

  Passthrough choose() {
    if (!wanted_.empty()) {
      require_sight();
      require_iommu();
    }
    for (const VmSpec::Pci& entry : wanted_) {
      take(entry);
    }
    problems_.throw_if_any();
    Passthrough chosen;
    for (const PciAddress& address : given_) {
      if (chosen.slots.empty() || slot_of(chosen.slots.back().front()) != slot_of(address)) {
        chosen.slots.emplace_back();
      }
      chosen.slots.back().push_back(address);
    }
    chosen.views = std::move(views_);
    chosen.groups = judge_groups();
    problems_.throw_if_any();
    return chosen;
  }

 private:
  /// A group could be larger than it looks.
  void require_sight() const {
    if (!pci_.unseen.empty()) {
      throw Failure(ExitCode::preflight,
                    "Cannot tell what the host uses: " + base::join(pci_.unseen, "; ") +
                        "; a run looks with its user's rights; type: ls -ld /sys /sys/bus/pci "
                        "/sys/kernel/iommu_groups");
    }
  }

  void require_iommu() const {
    if (!pci_.iommu) {
      throw Failure(ExitCode::preflight,
                    "Cannot give PCI devices to the guest: the host's IOMMU is off\n" +
                        base::join(pci_.iommu_advice(), "\n") +
                        "\nthen reboot, and type: vmlaunch host");
    }
  }

  void take(const VmSpec::Pci& entry) {
    const PciFunction* function = pci_.find(entry.device);
    const std::string shown = base::to_string(entry.device);
    if (function == nullptr) {
      problems_.add(ExitCode::preflight,
                    "Cannot find the PCI device " + shown + "; type: vmlaunch host");
    } else if (function->is_fabric()) {
      problems_.add(ExitCode::preflight,
                    "Cannot give " + shown +
                        " to the guest: it is a bridge, part of the host's own fabric; type: "
                        "vmlaunch host");
    } else if (entry.expect &&
               *entry.expect != config::PciIds{function->vendor, function->device}) {
      problems_.add(ExitCode::preflight,
                    "Cannot give " + shown + " to the guest: it is " + ids_of(*function) +
                        ", and the config expects " + to_string(*entry.expect) +
                        ": the hardware or its order changed; type: vmlaunch host");
    } else if (!function->iommu_group) {
      problems_.add(
          ExitCode::preflight,
          "Cannot give " + shown + " to the guest: no IOMMU serves it; type: vmlaunch host");
    } else {
      take(entry, *function);
      view(entry.view, *function);
    }
  }

  /// vfio has VGA's addresses only for what is a VGA card (drivers/vfio/pci/vfio_pci_core.c).
  void view(const VmSpec::PciView& view, const PciFunction& listed) {
    constexpr std::uint32_t kVga = 0x0300;
    if (view.x_vga && listed.class_code >> 8U != kVga) {
      problems_.add(ExitCode::preflight,
                    "Cannot give " + base::to_string(listed.address) +
                        " to the guest with x_vga: it is no VGA card; type: vmlaunch host");
    }
    views_.emplace(listed.address, view);
  }

  void take(const VmSpec::Pci& entry, const PciFunction& listed) {
    for (const PciFunction& function : pci_.functions) {
      const bool same = function.address == listed.address;
      const bool of_slot = !function.is_virtual && !listed.is_virtual &&
                           slot_of(function.address) == slot_of(listed.address);
      const bool of_group = entry.whole_group && function.iommu_group == listed.iommu_group;
      if (function.is_bridge() || (function.is_fabric() && !function.driver)) {
        continue;
      }
      if (same || (of_slot && entry.all_functions)) {
        given_.insert(function.address);
        taken_.insert(function.address);
      }
      // Functions of one card share their reset, so vfio must have them all. On a root bus a slot's
      // functions are devices of their own.
      if ((of_slot && listed.bridge) || of_group) {
        taken_.insert(function.address);
      }
    }
  }

  std::vector<Group> judge_groups() {
    std::set<unsigned> numbers;
    for (const PciAddress& address : taken_) {
      if (const auto group = pci_.find(address)->iommu_group) {
        numbers.insert(*group);
      }
    }
    std::vector<Group> groups;
    for (const unsigned number : numbers) {
      Group group{number, {}};
      for (const PciFunction* member : pci_.group(number)) {
        group.members.push_back({member->address,
                                 judge(*member),
                                 member->driver.value_or(""),
                                 given_.contains(member->address)});
      }
      refuse_if_in_use(group);
      groups.push_back(std::move(group));
    }
    return groups;
  }

  [[nodiscard]] Verdict judge(const PciFunction& member) const {
    if (member.is_bridge()) {
      return Verdict::bridge;
    }
    if (member.driver && member.driver->find("vfio") != std::string::npos) {
      return Verdict::vfio;
    }
    if (taken_.contains(member.address)) {
      return Verdict::must_bind;
    }
    // pci-stub only keeps others away (drivers/vfio/vfio_main.c lets it stand too).
    const bool used = member.driver && *member.driver != "pci-stub";
    return used ? Verdict::in_use : Verdict::no_driver;
  }

  void refuse_if_in_use(const Group& group) {
    const bool in_use =
        std::any_of(group.members.begin(), group.members.end(), [](const GroupMember& member) {
          return member.verdict == Verdict::in_use;
        });
    if (!in_use) {
      return;
    }
    std::string text = "Cannot give IOMMU group " + std::to_string(group.number) +
                       " to the guest: the host uses devices in it, and a group has one owner";
    for (const GroupMember& member : group.members) {
      text += "\n  " + describe(member);
    }
    problems_.add(ExitCode::group_not_viable,
                  text +
                      "\n  to take them too, list them in the config's \"pci\" or set \"group\": "
                      "\"all\" there; else put the card into another slot; type: vmlaunch host");
  }

  const std::vector<VmSpec::Pci>& wanted_;
  const survey::Pci& pci_;
  std::set<PciAddress> given_;
  std::set<PciAddress> taken_;
  std::map<PciAddress, VmSpec::PciView> views_;
  Problems problems_;
};

}  // namespace

bool Group::given() const {
  return std::any_of(
      members.begin(), members.end(), [](const GroupMember& member) { return member.given; });
}

const char* to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::bridge:
      return "bridge";
    case Verdict::vfio:
      return "vfio";
    case Verdict::no_driver:
      return "no driver";
    case Verdict::must_bind:
      return "must bind";
    case Verdict::in_use:
      return "in use";
  }
  return "";
}

std::string describe(const GroupMember& member) {
  std::string text = base::to_string(member.address) + " " + to_string(member.verdict);
  if (member.verdict == Verdict::in_use) {
    text += " by " + member.driver;
  } else if (member.verdict == Verdict::must_bind) {
    text += member.driver.empty() ? ", has no driver" : ", has " + member.driver;
  }
  return text + (member.given ? ", the guest gets it" : "");
}

Passthrough choose_devices(const std::vector<VmSpec::Pci>& wanted, const survey::Pci& pci) {
  return Chooser(wanted, pci).choose();
}

}  // namespace vmlaunch::launcher::plan
