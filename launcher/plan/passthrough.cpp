#include "launcher/plan/passthrough.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <variant>

#include "launcher/plan/problems.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using base::PciAddress;
using config::VmSpec;
using survey::PciFunction;

PciAddress slot_of(PciAddress address) {
  address.function = 0;
  return address;
}

std::string ids_of(const PciFunction& function) {
  return to_string(config::PciIds{function.vendor, function.device});
}

bool is_on_vfio(const PciFunction& function) {
  return function.driver && function.driver->find("vfio") != std::string::npos;
}

/// Whether the host shows something on it, or could. The firmware's screen works without a driver.
bool is_gpu_of_host(const PciFunction& function) {
  return function.class_code >> 16U == 0x03 && !is_on_vfio(function) &&
         (function.boot_vga || (function.driver && function.driver != "pci-stub"));
}

bool matches(const config::PciSelector& selector, const PciFunction& function) {
  if (const auto* slot = std::get_if<config::PciSlot>(&selector)) {
    return !function.is_virtual && slot_of(function.address) == slot->first;
  }
  if (const auto* ids = std::get_if<config::PciIds>(&selector)) {
    return *ids == config::PciIds{function.vendor, function.device};
  }
  if (const auto* one = std::get_if<config::PciClass>(&selector)) {
    return function.class_code >> 8U == one->number;
  }
  return function.address == std::get<PciAddress>(selector);
}

/// A candidate, for whoever has to choose.
std::string describe_candidate(const PciFunction& function) {
  return "\n  " + base::to_string(function.address) + " " + ids_of(function) +
         (function.driver ? ", driver " + *function.driver : ", no driver") +
         (function.boot_vga ? ", the firmware's screen" : "");
}

class Chooser {
 public:
  Chooser(const VmSpec& spec, const survey::Survey& survey)
      : spec_(spec), pci_(survey.pci), uses_(survey.uses), had_(survey.had) {}

  Passthrough choose() {
    if (!spec_.pci.empty()) {
      require_sight();
      require_iommu();
    }
    // What is only kept from all comes last: it may be a part of a card that is given.
    for (const config::PciTaker taker : {config::PciTaker::vfio, config::PciTaker::stub}) {
      for (const VmSpec::Pci& entry : spec_.pci) {
        if (entry.driver == taker) {
          choose(entry);
        }
      }
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
    chosen.rescanned = std::move(rescanned_);
    chosen.groups = judge_groups();
    chosen.cards = find_cards();
    refuse_without_reset(chosen.cards);
    refuse_had();
    refuse_losses();
    problems_.throw_if_any();
    return chosen;
  }

 private:
  /// How a device is taken from the host.
  struct Taken {
    base::Milliseconds release_timeout{};
    std::string driver;
    config::OnNoReset on_no_reset = {};
  };

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
                    "Cannot give PCI devices to the guest: the host's IOMMU is off" +
                        no_iommu_mode() + "\n" + base::join(pci_.iommu_advice(), "\n") +
                        "\nthen reboot, and type: vmlaunch host");
    }
  }

  [[nodiscard]] std::string no_iommu_mode() const {
    return uses_.no_iommu_mode
               ? "; vfio's no-IOMMU mode is not used, since a guest could then write to all of the "
                 "host's memory"
               : "";
  }

  void choose(const VmSpec::Pci& entry) {
    std::string why;
    ExitCode code = ExitCode::preflight;
    for (const config::PciSelector& selector : entry.device) {
      const std::vector<const PciFunction*> found = find(selector);
      if (found.size() > 1) {
        refuse_ambiguous(selector, found);
        return;
      }
      why.append("\n  ").append(to_string(selector)).append(": ");
      if (found.empty()) {
        why.append("it is not there");
        continue;
      }
      const std::string taken = who_has(found.front()->address);
      if (taken.empty() || entry.device.size() == 1) {
        take(entry, *found.front(), std::holds_alternative<config::PciSlot>(selector));
        return;
      }
      why.append(taken);
      code = ExitCode::held;
    }
    problems_.add(code,
                  entry.device.size() == 1
                      ? "Cannot find the PCI device " + to_string(entry.device.front()) +
                            "; type: vmlaunch host"
                      : "Cannot find a free one of the PCI devices that the config names:" + why +
                            "\n  type: vmlaunch host");
  }

  /// Of a slot its first function stands for all.
  [[nodiscard]] std::vector<const PciFunction*> find(const config::PciSelector& selector) const {
    std::vector<const PciFunction*> found;
    for (const PciFunction& function : pci_.functions) {
      if (matches(selector, function)) {
        found.push_back(&function);
      }
    }
    if (std::holds_alternative<config::PciSlot>(selector) && found.size() > 1) {
      found.resize(1);
    }
    return found;
  }

  void refuse_ambiguous(const config::PciSelector& selector,
                        const std::vector<const PciFunction*>& found) {
    std::string text = "Cannot tell which device \"" + to_string(selector) +
                       "\" means: there are " + std::to_string(found.size());
    for (const PciFunction* function : found) {
      text += describe_candidate(*function);
    }
    problems_.add(ExitCode::preflight, text + "\n  name one of them by its address");
  }

  /// "" for nobody.
  [[nodiscard]] std::string who_has(const PciAddress& address) const {
    if (const auto had = had_.find(address); had != had_.end()) {
      return had->second;
    }
    return taken_.contains(address) ? "this VM has " + base::to_string(address) + " already" : "";
  }

  void take(const VmSpec::Pci& entry, const PciFunction& function, bool all_functions) {
    const std::string shown = base::to_string(function.address);
    if (function.is_fabric()) {
      problems_.add(ExitCode::preflight,
                    "Cannot give " + shown +
                        " to the guest: it is a bridge, part of the host's own fabric; type: "
                        "vmlaunch host");
    } else if (entry.expect && *entry.expect != config::PciIds{function.vendor, function.device}) {
      problems_.add(ExitCode::preflight,
                    "Cannot give " + shown + " to the guest: it is " + ids_of(function) +
                        ", and the config expects " + to_string(*entry.expect) +
                        ": the hardware or its order changed; type: vmlaunch host");
    } else if (!function.iommu_group) {
      problems_.add(ExitCode::preflight,
                    "Cannot give " + shown + " to the guest: no IOMMU serves it" + no_iommu_mode() +
                        "; type: vmlaunch host");
    } else if (entry.driver == config::PciTaker::stub) {
      keep_from_all(entry, function, all_functions || entry.all_functions);
    } else {
      take_with_card(entry, function, all_functions || entry.all_functions);
      view(entry.view, function);
      if (entry.rescan) {
        rescan(function);
      }
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

  void take_with_card(const VmSpec::Pci& entry, const PciFunction& listed, bool all_functions) {
    for (const PciFunction& function : pci_.functions) {
      const bool same = function.address == listed.address;
      const bool of_slot = !function.is_virtual && !listed.is_virtual &&
                           slot_of(function.address) == slot_of(listed.address);
      const bool of_group = entry.whole_group && function.iommu_group == listed.iommu_group;
      if (function.is_bridge() || (function.is_fabric() && !function.driver)) {
        continue;
      }
      const bool given = same || (of_slot && all_functions);
      if (given) {
        given_.insert(function.address);
      }
      // Functions of one card share their reset, so vfio must have them all. On a root bus a slot's
      // functions are devices of their own.
      if (given || (of_slot && listed.bridge) || of_group) {
        taken_.emplace(function.address,
                       Taken{entry.release_timeout, config::kVfioDriver, entry.on_no_reset});
      }
    }
  }

  /// What nobody is to have: also a function of a card whose others the guest gets.
  void keep_from_all(const VmSpec::Pci& entry, const PciFunction& listed, bool all_functions) {
    for (const PciFunction& function : pci_.functions) {
      const bool of_slot = !function.is_virtual && !listed.is_virtual &&
                           slot_of(function.address) == slot_of(listed.address);
      if (function.address != listed.address && !(of_slot && all_functions)) {
        continue;
      }
      if (given_.contains(function.address)) {
        problems_.add(ExitCode::preflight,
                      "Cannot keep " + base::to_string(function.address) +
                          " from the guest with pci-stub: the config gives it to the guest too");
      }
      taken_[function.address] = Taken{entry.release_timeout, config::kStubDriver};
    }
  }

  /// The whole card is found anew, with all of its functions.
  void rescan(const PciFunction& listed) {
    std::vector<PciAddress> card;
    bool has_virtual = false;
    for (const PciFunction& function : pci_.functions) {
      if (slot_of(function.address) == slot_of(listed.address)) {
        card.push_back(function.address);
        has_virtual = has_virtual || function.is_virtual || function.virtual_count > 0;
      }
    }
    if (has_virtual) {
      problems_.add(ExitCode::preflight,
                    "Cannot find " + base::to_string(listed.address) +
                        " anew: its card has virtual functions, which would be gone; leave "
                        "\"rescan\" out, or type: echo 0 > "
                        "/sys/bus/pci/devices/" +
                        base::to_string(listed.physical.value_or(listed.address)) +
                        "/sriov_numvfs");
    } else if (!listed.bridge) {
      problems_.add(ExitCode::preflight,
                    "Cannot find " + base::to_string(listed.address) +
                        " anew: it is on a root bus, whose addresses are the firmware's; leave "
                        "\"rescan\" out");
    } else if (std::find(rescanned_.begin(), rescanned_.end(), card) == rescanned_.end()) {
      rescanned_.push_back(card);
    }
  }

  std::vector<Group> judge_groups() {
    std::set<unsigned> numbers;
    for (const auto& [address, taken] : taken_) {
      if (const auto group = pci_.find(address)->iommu_group) {
        numbers.insert(*group);
      }
    }
    std::vector<Group> groups;
    for (const unsigned number : numbers) {
      Group group{number, {}};
      for (const PciFunction* member : pci_.group(number)) {
        GroupMember judged{member->address, judge(*member), member->driver.value_or("")};
        judged.given = given_.contains(member->address);
        if (const auto taken = taken_.find(member->address); taken != taken_.end()) {
          judged.release_timeout = taken->second.release_timeout;
          judged.taker = taken->second.driver;
        }
        group.members.push_back(std::move(judged));
      }
      refuse_if_in_use(group);
      groups.push_back(std::move(group));
    }
    return groups;
  }

  /// What vfio will have, by what is reset together.
  [[nodiscard]] std::vector<Card> find_cards() const {
    std::set<PciAddress> ours;
    for (const auto& [address, taken] : taken_) {
      if (taken.driver == config::kVfioDriver) {
        ours.insert(address);
      }
    }
    std::vector<Card> cards;
    for (const PciAddress& address : ours) {
      const auto beside = [&](const Card& card) {
        return share_reset(*pci_.find(card.functions.front()), *pci_.find(address));
      };
      auto card = std::find_if(cards.begin(), cards.end(), beside);
      if (card == cards.end()) {
        card = cards.insert(cards.end(), Card());
      }
      card->functions.push_back(address);
      const config::OnNoReset& word = taken_.at(address).on_no_reset;
      card->on_no_reset.refuse = card->on_no_reset.refuse || word.refuse;
      card->on_no_reset.rungs.insert(word.rungs.begin(), word.rungs.end());
    }
    for (Card& card : cards) {
      card.outlook = survey::reset_outlook(pci_, card.functions, ours);
    }
    return cards;
  }

  void refuse_without_reset(const std::vector<Card>& cards) {
    for (const Card& card : cards) {
      if (card.on_no_reset.refuse && !card.outlook.is_possible()) {
        problems_.add(ExitCode::preflight,
                      "Cannot give " + describe(card) +
                          "; the config's on_no_reset refuses that; type: vmlaunch host");
      }
    }
  }

  [[nodiscard]] Verdict judge(const PciFunction& member) const {
    if (member.is_bridge()) {
      return Verdict::bridge;
    }
    const auto taken = taken_.find(member.address);
    const bool kept = taken != taken_.end() && taken->second.driver == config::kStubDriver;
    if (is_on_vfio(member) && !kept) {
      return Verdict::vfio;
    }
    // pci-stub only keeps others away (drivers/vfio/vfio_main.c lets it stand too).
    const bool used = member.driver && *member.driver != config::kStubDriver;
    if (taken != taken_.end() && (used || !kept)) {
      return Verdict::must_bind;
    }
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

  void refuse_had() {
    for (const auto& [address, by] : had_) {
      if (taken_.contains(address)) {
        problems_.add(ExitCode::held,
                      "Cannot take " + base::to_string(address) + ": " + by + "; stop that first");
      }
    }
  }

  void refuse_loss(const PciAddress& address, const std::string& what, const std::string& advice) {
    problems_.add(
        ExitCode::preflight,
        "Cannot take " + base::to_string(address) + " from the host: " + what + "; " + advice);
  }

  /// What the host must keep, or what must be ended first.
  void refuse_losses() {
    for (const survey::Use& use : uses_.uses) {
      if (taken_.contains(use.place.device)) {
        refuse_loss(use.place.device, use.what, use.advice);
      }
    }
    const auto is_taken = [&](const survey::Place& place) { return taken_.contains(place.device); };
    if (!uses_.other_keyboard &&
        std::all_of(uses_.keyboards.begin(), uses_.keyboards.end(), is_taken)) {
      std::set<PciAddress> controllers;
      for (const survey::Place& place : uses_.keyboards) {
        controllers.insert(place.device);
      }
      for (const PciAddress& address : controllers) {
        refuse_loss(address,
                    "the host's only keyboard is there",
                    "plug one into another controller, to stop the guest with");
      }
    }
    refuse_last_gpu();
  }

  void refuse_last_gpu() {
    std::vector<PciAddress> lost;
    for (const PciFunction& function : pci_.functions) {
      if (!is_gpu_of_host(function)) {
        continue;
      }
      if (spec_.single_gpu || !taken_.contains(function.address)) {
        return;
      }
      lost.push_back(function.address);
    }
    for (const PciAddress& address : lost) {
      refuse_loss(address,
                  "the host would have no GPU left for its own screen",
                  "if that is meant, set \"single_gpu\": true in the config");
    }
  }

  const VmSpec& spec_;
  const survey::Pci& pci_;
  const survey::Uses& uses_;
  const std::map<PciAddress, std::string>& had_;
  std::set<PciAddress> given_;
  std::map<PciAddress, VmSpec::PciView> views_;
  std::map<PciAddress, Taken> taken_;
  std::vector<std::vector<PciAddress>> rescanned_;
  Problems problems_;
};

}  // namespace

bool Group::given() const {
  return std::any_of(
      members.begin(), members.end(), [](const GroupMember& member) { return member.given; });
}

std::set<unsigned> nodes_near(const Passthrough& passthrough, const survey::Pci& pci) {
  std::set<unsigned> near;
  for (const auto& slot : passthrough.slots) {
    for (const base::PciAddress& device : slot) {
      const survey::PciFunction* function = pci.find(device);
      if (function != nullptr && function->numa_node) {
        near.insert(*function->numa_node);
      }
    }
  }
  return near;
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
    text += member.taker == config::kStubDriver ? "; only kept from all" : "";
  }
  return text + (member.given ? ", the guest gets it" : "");
}

std::string describe(const Card& card) {
  std::vector<std::string> names;
  names.reserve(card.functions.size());
  for (const PciAddress& function : card.functions) {
    names.push_back(base::to_string(function));
  }
  return base::join(names, ", ") + ": " + to_string(card.outlook);
}

Passthrough choose_devices(const VmSpec& spec, const survey::Survey& survey) {
  return Chooser(spec, survey).choose();
}

}  // namespace vmlaunch::launcher::plan
