#include <linux/capability.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "launcher/steps/card_change.hpp"
#include "launcher/steps/health.hpp"
#include "launcher/steps/reset_ladder.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/steps/taints.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Looks whether a card works and how vfio can reset it, before a guest has it; and resets it and
/// looks again when one has had it.
class ResetCard final : public CardChange {
 public:
  ResetCard(std::vector<base::PciAddress> functions,
            config::OnNoReset on_no_reset,
            bool force_tainted)
      : CardChange(std::move(functions)),
        on_no_reset_(std::move(on_no_reset)),
        force_tainted_(force_tainted) {}

  const char* kind() const override { return "reset-card"; }

  /// To read the kernel's log, and for what is below a bridge (reset_subordinate_store(),
  /// drivers/pci/pci-sysfs.c).
  std::vector<int> capabilities() const override {
    return on_no_reset_.rungs.contains(config::ResetRung::bridge)
               ? std::vector<int>{CAP_SYSLOG, CAP_SYS_ADMIN}
               : std::vector<int>{CAP_SYSLOG};
  }

  Step read(Fields& fields) const override {
    std::vector<base::PciAddress> functions = read_functions(fields);
    config::OnNoReset on_no_reset;
    on_no_reset.refuse = fields.boolean("refuse");
    for (const std::string& text : fields.texts("rungs")) {
      on_no_reset.rungs.insert(read_rung(text));
    }
    const bool force_tainted = fields.boolean("force_tainted");
    return reset_card(std::move(functions), std::move(on_no_reset), force_tainted);
  }

  void write(Json& json) const override {
    CardChange::write(json);
    json["refuse"] = on_no_reset_.refuse;
    json["force_tainted"] = force_tainted_;
    json["rungs"] = Json::array();
    for (const config::ResetRung rung : on_no_reset_.rungs) {
      json["rungs"].push_back(to_string(rung));
    }
  }

  std::string describe() const override { return "see that " + names() + " work"; }
  std::string describe_undo() const override {
    return "reset where that is possible, and seen to work";
  }
  bool is_per_qemu() const override { return true; }

  void check(const Host& host) const override {
    CardChange::check(host);
    for (const base::PciAddress& function : functions()) {
      const std::optional<Taint> taint = find_taint(host, function);
      if (taint && !force_tainted_) {
        throw Failure(ExitCode::needs_power_cycle,
                      "Cannot give it to a guest: " + steps::describe(function, *taint) +
                          "; to start all the same: vmlaunch run --force-tainted FILE");
      }
    }
  }

  Json capture(const Host& host, const Context& context) const override {
    Json found = Json::array();
    for (const base::PciAddress& function : functions()) {
      found.push_back({{"device", base::to_string(function)},
                       {"methods", wire_text(look_at_reset(host, function).methods)}});
    }
    Json record = {{"vm", context.vm}, {"functions", found}};
    if (may_be_found_anew()) {
      record["card"] = card().look(host);
    }
    return record;
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& note) const override {
    require_free_of_others(host);
    std::string fault = find_fault(host, functions(), host.kernel_log({}, 0).next);
    if (!fault.empty()) {
      host.tell(fault);
      note({{"used", true}});  // its methods are rewritten from here on
      const ResetResult result = reset_and_verify(host, read_found(found), on_no_reset_.rungs);
      fault = result.fault;
      host.tell(result.lost.empty() ? "reset before its start" : result.lost);
    }
    if (!fault.empty() && !force_tainted_) {
      throw Failure(ExitCode::needs_power_cycle,
                    "Cannot give " + names() + " to the guest: " + fault +
                        "; power the host off and on; to start all the same: vmlaunch run "
                        "--force-tainted FILE");
    }
    if (!fault.empty()) {
      host.tell("given to the guest all the same: " + fault);
    }
    clear_taints(host);  // whoever started it all the same wants another try
    try {
      judge(host.ask_vfio(functions()), host);
    } catch (const std::system_error& error) {
      // Its node may be another user's, who runs without root as a rule.
      host.tell(std::string("vfio cannot be asked how it resets ") + names() + ": " + error.what());
    }
  }

  void after_start(Host& /*host*/,
                   const Json& /*found*/,
                   const Note& note,
                   const Tell& /*tell*/) const override {
    note({{"used", true}});
  }

  void undo(Host& host, const Json& found) const override {
    const std::vector<Resettable> before = read_found(found);
    require_ours(host, found);
    ResetResult result;
    if (found.contains("used")) {
      note_beginning(host, found);
      result = reset_and_verify(host, before, on_no_reset_.rungs);
    } else {
      result.fault = find_fault(host, functions(), host.kernel_log({}, 0).next);
    }
    result.fault.empty() ? clear_taints(host) : taint(host, found, result.fault);
    if (!result.fault.empty()) {
      throw Tainted(result.fault + "; power the host off and on, or try again");
    }
    if (!result.lost.empty()) {
      throw Lost(result.lost);
    }
  }

 private:
  /// A taint that says no more than that a reset began.
  static constexpr const char* kUnfinished = "its reset has not come to an end";

  [[nodiscard]] bool may_be_found_anew() const {
    return on_no_reset_.rungs.contains(config::ResetRung::rescan);
  }

  void taint(const Host& host, const Json& found, const std::string& fault) const {
    for (const base::PciAddress& function : functions()) {
      set_taint(host, function, {vm_of(found), fault});
    }
  }

  /// Should nobody see how it ends, nobody else is to have it before it has been tried again.
  void note_beginning(const Host& host, const Json& found) const {
    try {
      taint(host, found, kUnfinished);
    } catch (const std::system_error& error) {
      host.tell(error.what());  // a full disk does not keep a card from its reset
    }
  }

  void clear_taints(const Host& host) const {
    for (const base::PciAddress& function : functions()) {
      clear_taint(host, function);
    }
  }

  void require_free_of_others(const Host& host) const {
    const auto end = std::chrono::steady_clock::now() + host.deadlines().closing;
    std::string group = host.open_group_of(functions());
    while (!group.empty() && std::chrono::steady_clock::now() < end) {
      const timespec pause{0, 50'000'000};
      ::nanosleep(&pause, nullptr);
      group = host.open_group_of(functions());
    }
    if (!group.empty()) {
      throw Failure(ExitCode::device_busy,
                    "Cannot use " + names() + ": another program has the IOMMU group " + group +
                        " open; type: fuser -v /dev/vfio/" + group);
    }
  }

  /// What is reset is what the guest had, and nobody else has by now. One that was removed to be
  /// found anew comes back first.
  void require_ours(Host& host, const Json& found) const {
    if (found.contains("card") && !card().is_there(host)) {
      try {
        card().bring_back(host, found.at("card"));
      } catch (const ChangedMeanwhile&) {
        taint(host, found, "it was removed to be found anew, and was not found");
        throw;
      }
    }
    for (const base::PciAddress& function : functions()) {
      require_still_there(host, function);
      if (const std::string driver = driver_of(host, function);
          !driver.empty() && driver != config::kVfioDriver) {
        throw ChangedMeanwhile(base::to_string(function) + " has " + named(driver) +
                               " by now, and is not reset under it");
      }
      const auto known = find_taint(host, function);
      if (known && known->fault != kUnfinished) {
        throw Tainted(steps::describe(function, *known));
      }
    }
    require_free_of_others(host);
  }

  static config::ResetRung read_rung(const std::string& text) {
    for (const auto& [name, rung] : config::rung_names()) {
      if (text == name) {
        return rung;
      }
    }
    throw FormError("not a way to reset");
  }

  static std::string vm_of(const Json& found) { return Fields(found).text("vm"); }

  static std::vector<Resettable> read_found(const Json& found) {
    std::vector<Resettable> functions;
    for (const Json& json : Fields(found).array("functions", 256)) {
      Fields fields(json);
      functions.push_back({read_address(fields, "device"), fields.text("methods")});
      fields.finish();
    }
    return functions;
  }

  /// vfio's word is the last: what sysfs lists may not work.
  void judge(const std::vector<VfioReset>& answers, const Host& host) const {
    for (const VfioReset& answer : answers) {
      const std::string name = base::to_string(answer.device);
      std::vector<std::string> others;
      for (const base::PciAddress& other : answer.together) {
        if (std::find(functions().begin(), functions().end(), other) == functions().end()) {
          others.push_back(base::to_string(other));
        }
      }
      if (answer.alone) {
        host.tell(name + ": vfio can reset it alone");
      } else if (!answer.together.empty() && others.empty()) {
        host.tell(name + ": vfio can reset it with all that is on its bus");
      } else {
        const std::string why =
            others.empty() ? "" : ": " + base::join(others, ", ") + " would be reset too";
        if (on_no_reset_.refuse) {
          throw Failure(ExitCode::preflight,
                        "Cannot give " + name + " to the guest: vfio has no reset for it" + why +
                            ", and the config's on_no_reset refuses that; type: vmlaunch device "
                            "info " +
                            name);
        }
        host.tell(name + ": vfio has no reset for it" + why);
      }
    }
  }

  config::OnNoReset on_no_reset_;
  bool force_tainted_;
};

}  // namespace

Step reset_card(std::vector<base::PciAddress> functions,
                config::OnNoReset on_no_reset,
                bool force_tainted) {
  return Step(
      std::make_shared<ResetCard>(std::move(functions), std::move(on_no_reset), force_tainted));
}

}  // namespace vmlaunch::launcher::steps
