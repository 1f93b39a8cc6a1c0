#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/duration.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/survey/reset.hpp"
#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::plan {

/// What stands between an IOMMU group and the guest.
enum class Verdict {
  bridge,     ///< the host's fabric: stays as it is
  vfio,       ///< vfio has it already, and it is left so
  no_driver,  ///< nobody uses it
  must_bind,  ///< is taken from its driver for the time of the run
  in_use,     ///< the host uses it, and nobody said that it may be taken
};

/// A member of an IOMMU group with its verdict.
struct GroupMember {
  base::PciAddress address;
  Verdict verdict = Verdict::no_driver;
  std::string driver;                       ///< "" for none
  bool given = false;                       ///< the guest gets it
  base::Milliseconds release_timeout{};     ///< for those who have it open to close it
  std::string taker = config::kVfioDriver;  ///< the driver that it is bound to

  bool operator==(const GroupMember&) const = default;
};

struct Group {
  unsigned number = 0;
  std::vector<GroupMember> members;

  /// QEMU opens it. Others are only kept from the host: functions of the same card.
  [[nodiscard]] bool given() const;

  bool operator==(const Group&) const = default;
};

/// Functions that one reset concerns, and that vfio has for the guest.
struct Card {
  std::vector<base::PciAddress> functions;
  survey::ResetOutlook outlook;
  config::OnNoReset on_no_reset;  ///< the strictest word, and all allowed ways, of its devices

  bool operator==(const Card&) const = default;
};

/// The devices that a VM gets, and what that means for the host.
struct Passthrough {
  std::vector<std::vector<base::PciAddress>> slots;  ///< given functions, those of a slot together
  std::map<base::PciAddress, config::VmSpec::PciView> views;  ///< of listed functions
  std::vector<Group> groups;
  std::vector<std::vector<base::PciAddress>> rescanned;  ///< all functions of each such card
  std::vector<Card> cards;                               ///< by their first functions

  bool operator==(const Passthrough&) const = default;
};

/// The memory nodes that given devices are near to.
[[nodiscard]] std::set<unsigned> nodes_near(const Passthrough& passthrough, const survey::Pci& pci);

[[nodiscard]] const char* to_string(Verdict verdict);

/// "0000:01:00.1 must bind, has snd_hda_intel"
[[nodiscard]] std::string describe(const GroupMember& member);

/// "0000:01:00.0, 0000:01:00.1: hot reset of its bus, all functions together"
[[nodiscard]] std::string describe(const Card& card);

/// Throws Failure with every problem: preflight for a device that is not there, is one of several,
/// is another one, cannot be given or must not be lost to the host; group_not_viable when somebody
/// else uses a member of its group; held when a running VM has it.
[[nodiscard]] Passthrough choose_devices(const config::VmSpec& spec, const survey::Survey& survey);

}  // namespace vmlaunch::launcher::plan
