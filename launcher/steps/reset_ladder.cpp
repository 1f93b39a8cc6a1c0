#include "launcher/steps/reset_ladder.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

#include "base/text.hpp"
#include "launcher/steps/card.hpp"
#include "launcher/steps/health.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/survey/reset.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using base::PciAddress;
using config::ResetRung;
using std::chrono::steady_clock;

std::string method_file(const PciAddress& device) {
  return device_folder(device) + "/reset_method";
}

/// What one attempt came to.
enum class Outcome {
  done,
  absent,  ///< there is no such way
  failed,
};

class Ladder {
 public:
  Ladder(Host& host, const std::vector<Resettable>& functions, const std::set<ResetRung>& allowed)
      : host_(host), functions_(functions), allowed_(allowed) {
    for (const Resettable& function : functions_) {
      devices_.push_back(function.device);
    }
  }

  ResetResult climb() {
    if (rung([this] { return reset_each(); }) || rung([this] { return hot_reset(); })) {
      return std::move(result_);
    }
    // A card that is not found any more is lost to all others.
    if (allowed_.contains(ResetRung::bridge) && rung([this] { return reset_bridge(); })) {
      return std::move(result_);
    }
    if (allowed_.contains(ResetRung::rescan) && rung([this] { return rescan(); })) {
      return std::move(result_);
    }
    if (result_.fault.empty() && failed_) {
      result_.fault = "no reset of " + base::to_string(devices_.front()) +
                      " worked: " + base::join(result_.tried, "; ");
    }
    return std::move(result_);
  }

 private:
  /// Whether the climb is over: what there was to do is done, and nothing is wrong.
  template <typename Try>
  bool rung(Try attempt) {
    const std::uint64_t since = host_.kernel_log({}, 0).next;
    const Outcome outcome = attempt();
    failed_ = outcome == Outcome::failed || (failed_ && outcome == Outcome::absent);
    result_.fault = find_fault(host_, devices_, since);
    if (result_.fault.empty() && outcome == Outcome::done) {
      result_.fault = fault_by_vfio();
    }
    return result_.fault.empty() && outcome == Outcome::done;
  }

  /// What `call` throws is what it came to.
  template <typename Call>
  Outcome attempt(const std::string& what, Call call) {
    host_.tell("resets " + what);
    waited_ = false;
    const auto began = steady_clock::now();
    try {
      call();
      note(what + ": done");
      return Outcome::done;
    } catch (const std::system_error& error) {
      // The same error stands for a device, or a link, that was waited for in vain: whether that
      // matters is seen by looking at the device.
      const int code = error.code().value();
      const bool absent = code == ENOTTY || is_refusal(code);
      waited_ = steady_clock::now() - began > std::chrono::milliseconds(500);
      note(what + ": " + (code == ENOTTY ? "not possible" : error.what()));
      return absent ? Outcome::absent : Outcome::failed;
    }
  }

  /// Of us, and not by the device: it is none the worse. A group of which the host has a device by
  /// now cannot be used (EPERM), one that is open somewhere neither.
  static bool is_refusal(int error) { return error == EPERM || error == EACCES || error == EBUSY; }

  void note(const std::string& line) {
    host_.tell(line);
    result_.tried.push_back(line);
  }

  static Outcome worse_of(Outcome a, Outcome b) { return std::max(a, b); }

  /// Done only if all functions are.
  Outcome reset_each() {
    Outcome all = Outcome::done;
    for (const Resettable& function : functions_) {
      all = worse_of(all, reset_alone(function));
    }
    return all;
  }

  Outcome reset_alone(const Resettable& function) {
    std::vector<std::string> methods = base::split(function.methods, ' ');
    std::erase(methods, "");
    if (std::none_of(methods.begin(), methods.end(), [&](const std::string& method) {
          return can_try(function, method);
        })) {
      return Outcome::absent;
    }
    if (methods.size() == 1 || !takes(function)) {
      // The kernel goes by all of them, and comes to the last when those before fail.
      return reset_by(function, function.methods, methods.back(), methods.size(), [] {});
    }
    Outcome outcome = Outcome::absent;
    for (auto method = methods.begin(); method != methods.end() && outcome != Outcome::done;
         ++method) {
      if (can_try(function, *method)) {
        const Outcome now = reset_by(function, *method, *method, 1, [&] {
          host_.write(method_file(function.device), *method);
        });
        outcome = now == Outcome::absent ? outcome : now;
      }
    }
    put_back(function);
    return outcome;
  }

  /// For one that does not answer the kernel would wait a minute and more after each method that
  /// goes by its own registers.
  [[nodiscard]] bool can_try(const Resettable& function, const std::string& method) const {
    return method == "bus" || method == "cxl_bus" || method == "acpi" ||
           answers(host_, function.device);
  }

  /// Done only if it works afterwards.
  template <typename Prepare>
  Outcome reset_by(const Resettable& function,
                   const std::string& shown,
                   const std::string& last,
                   std::size_t count,
                   Prepare prepare) {
    const std::uint64_t since = host_.kernel_log({}, 0).next;
    Outcome outcome = attempt(base::to_string(function.device) + " by " + shown, [&] {
      prepare();
      host_.reset(function.device, count);
    });
    if (outcome == Outcome::done && !find_fault(host_, {function.device}, since).empty()) {
      outcome = Outcome::failed;
    }
    // With the bus of a function that is alone there: a hot reset would be the same again.
    by_bus_ = by_bus_ || (last == "bus" && (outcome != Outcome::absent || waited_));
    return outcome;
  }

  void put_back(const Resettable& function) {
    try {
      restore_methods(host_, function);
    } catch (const Lost& lost) {
      result_.lost = lost.what();
    }
  }

  /// Some lists are refused when they are written back: the first function of a card had its
  /// methods looked for before the others were known.
  bool takes(const Resettable& function) {
    try {
      host_.write(method_file(function.device), function.methods);
      return true;
    } catch (const std::system_error&) {
      return false;
    }
  }

  /// vfio resets a function when it is opened, which takes long for one that does not answer: not
  /// now.
  Outcome hot_reset() {
    if (by_bus_) {
      return Outcome::absent;  // the same has been tried
    }
    for (const Resettable& function : functions_) {
      if (!function.methods.empty() && takes(function)) {
        host_.write(method_file(function.device), "");
      }
    }
    const Outcome outcome = reset_together();
    for (const Resettable& function : functions_) {
      put_back(function);
    }
    return outcome;
  }

  /// Never with a device that is not ours, although vfio would let idle ones of others go with it.
  Outcome reset_together() {
    const auto has = [&](const PciAddress& device) {
      return std::find(devices_.begin(), devices_.end(), device) != devices_.end();
    };
    try {
      for (const VfioReset& answer : host_.ask_vfio(devices_)) {
        if (answer.together.empty() ||
            !std::all_of(answer.together.begin(), answer.together.end(), has)) {
          return Outcome::absent;
        }
      }
    } catch (const std::system_error& error) {
      // Nodes of somebody else's: their devices cannot be asked about, and are none the worse.
      note(error.what());
      return is_refusal(error.code().value()) ? Outcome::absent : Outcome::failed;
    }
    return attempt(names() + " together (vfio's hot reset)", [&] { host_.hot_reset(devices_); });
  }

  Outcome rescan() {
    const Card card(devices_);
    const Json found = card.look(host_);
    try {
      return attempt(names() + " by being found anew", [&] {
        card.remove(host_);
        card.bring_back(host_, found);
      });
    } catch (const ChangedMeanwhile& error) {
      note(error.what());  // it is not there any more
    } catch (const Stuck&) {
      throw;
    } catch (const Failure& failure) {
      note(failure.what());  // it is there, with another driver
    }
    return Outcome::failed;
  }

  Outcome reset_bridge() {
    const survey::Pci pci = survey::look_at_pci(host_.tree());
    const survey::PciFunction* first = pci.find(devices_.front());
    if (first == nullptr || !first->bridge ||
        !survey::obstacles_behind(pci, *first->bridge, {devices_.begin(), devices_.end()})
             .empty()) {
      return Outcome::absent;
    }
    if (!host_.tree().exists(device_folder(*first->bridge) + "/reset_subordinate")) {
      return Outcome::absent;
    }
    return attempt(names() + " by their bridge", [&] { host_.reset_below(*first->bridge); });
  }

  std::string fault_by_vfio() const {
    try {
      static_cast<void>(host_.ask_vfio(devices_));
      return "";
    } catch (const std::system_error& error) {
      return is_refusal(error.code().value())
                 ? ""
                 : names() + " cannot be used by vfio: " + error.what();
    }
  }

  [[nodiscard]] std::string names() const {
    std::vector<std::string> words;
    words.reserve(devices_.size());
    for (const PciAddress& device : devices_) {
      words.push_back(base::to_string(device));
    }
    return base::join(words, ", ");
  }

  Host& host_;
  const std::vector<Resettable>& functions_;
  const std::set<ResetRung>& allowed_;
  std::vector<PciAddress> devices_;
  ResetResult result_;
  bool failed_ = false;
  bool waited_ = false;  ///< the kernel, in the last attempt
  bool by_bus_ = false;  ///< the bus of a function that is alone there was reset
};

}  // namespace

Resettable look_at_reset(const Host& host, const PciAddress& device) {
  return {device, host.tree().read(method_file(device)).value_or("")};
}

ResetResult reset_and_verify(Host& host,
                             const std::vector<Resettable>& functions,
                             const std::set<config::ResetRung>& allowed) {
  return Ladder(host, functions, allowed).climb();
}

void restore_methods(Host& host, const Resettable& function) {
  const std::string now = host.tree().read(method_file(function.device)).value_or("");
  if (function.methods.empty() || now == function.methods) {
    return;
  }
  const std::string file = method_file(function.device);
  try {
    host.write(file, function.methods);
  } catch (const std::system_error& error) {
    throw Lost("the reset methods of " + base::to_string(function.device) + " are \"" +
               base::printable(now) + "\", were \"" + base::printable(function.methods) +
               "\", and cannot be put back: " + error.what() + "; type: echo default > " + file);
  }
}

}  // namespace vmlaunch::launcher::steps
