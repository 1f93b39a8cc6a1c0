#include <linux/capability.h>

#include <algorithm>
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

  // To read the kernel's log.
  int capability() const override { return CAP_SYSLOG; }

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
    return {{"vm", context.vm}, {"functions", found}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& /*note*/) const override {
    std::string fault = find_fault(host, functions(), host.kernel_log({}, 0).next);
    if (!fault.empty()) {
      host.tell(fault);
      fault = reset_and_verify(host, read_found(found), on_no_reset_.rungs).fault;
    }
    if (!fault.empty()) {
      throw Failure(ExitCode::needs_power_cycle,
                    "Cannot give " + names() + " to the guest: " + fault +
                        "; power the host off and on, and type: vmlaunch host");
    }
    for (const base::PciAddress& function : functions()) {
      clear_taint(host, function);  // whoever started it all the same wants another try
    }
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
    for (const Resettable& function : before) {
      require_still_there(host, function.device);
      if (const auto taint = find_taint(host, function.device)) {
        throw Tainted(steps::describe(function.device, *taint));
      }
    }
    ResetResult result;
    if (found.contains("used")) {
      result = reset_and_verify(host, before, on_no_reset_.rungs);
    } else {
      result.fault = find_fault(host, functions(), host.kernel_log({}, 0).next);
    }
    for (const base::PciAddress& function : functions()) {
      result.fault.empty() ? clear_taint(host, function)
                           : set_taint(host, function, {vm_of(found), result.fault});
    }
    if (!result.fault.empty()) {
      throw Tainted(result.fault + "; power the host off and on, or try again");
    }
    if (!result.lost.empty()) {
      throw Lost(result.lost);
    }
  }

 private:
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
