#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "launcher/steps/card_change.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Removes a card and finds it anew: the kernel gives it other memory windows then, which helps
/// where the firmware's overlap. A driver that takes it at once cannot be kept off
/// (pci_bus_add_device() asks all of them, whatever drivers_autoprobe says), so this comes before
/// the card is bound to vfio-pci. Its settings and its drivers are as before.
class RescanCard final : public CardChange {
 public:
  using CardChange::CardChange;

  const char* kind() const override { return "rescan-card"; }

  Step read(Fields& fields) const override {
    std::vector<base::PciAddress> functions = read_functions(fields);
    for (const base::PciAddress& function : functions) {
      if (function.device != functions.front().device) {
        throw FormError("not the functions of a card");
      }
    }
    return rescan_card(std::move(functions));
  }

  std::string describe() const override {
    return "remove " + names() + " and find them anew, with their drivers";
  }
  std::string describe_undo() const override { return "found anew, if any is missing"; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    check(host);
    return {{"functions", card().look(host)}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& note) const override {
    for (const base::PciAddress& function : functions()) {
      if (const std::vector<Holder> holders = host.holders(function); !holders.empty()) {
        refuse_held(function, holders);
      }
    }
    card().remove(host);
    try {
      card().bring_back(host, found.at("functions"));
    } catch (const ChangedMeanwhile& error) {
      throw Failure(ExitCode::failed, "Cannot " + describe() + ": " + error.what());
    }
    note({{"found_anew", true}});
  }

  /// What is there again was put back by apply, and is others' since then.
  void undo(Host& host, const Json& found) const override {
    std::set<base::PciAddress> left;
    for (const base::PciAddress& function : functions()) {
      if (found.contains("found_anew") && host.tree().exists(device_folder(function))) {
        left.insert(function);
      }
    }
    card().bring_back(host, Fields(found).array("functions", 8), left);
  }
};

}  // namespace

Step rescan_card(std::vector<base::PciAddress> functions) {
  return Step(std::make_shared<RescanCard>(std::move(functions)));
}

}  // namespace vmlaunch::launcher::steps
