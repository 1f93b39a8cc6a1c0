#include <unistd.h>

#include <algorithm>
#include <array>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "base/text.hpp"
#include "launcher/cli/verbs.hpp"
#include "launcher/guardian/host_changes.hpp"
#include "launcher/plan/host_steps.hpp"
#include "launcher/steps/health.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/steps/reservations.hpp"
#include "launcher/steps/state_folders.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/steps/taints.hpp"
#include "launcher/survey/print.hpp"

namespace vmlaunch::launcher::cli {

namespace {

using base::PciAddress;
using survey::PciFunction;

struct DeviceOptions {
  std::string address;
  std::vector<config::ResetRung> allowed;
  bool force_tainted = false;
  bool json = false;
};

/// What a device's verbs need of the host, without anything having been changed.
struct Scene {
  config::VmSpec spec;  ///< a VM that gets the device's card
  survey::Survey survey;
  PciAddress address;

  [[nodiscard]] const PciFunction& device() const { return *survey.pci.find(address); }

  /// Those that are reset together.
  [[nodiscard]] std::vector<PciAddress> card() const {
    std::vector<PciAddress> card;
    for (const PciFunction& other : survey.pci.functions) {
      if (share_reset(device(), other) && !other.is_bridge()) {
        card.push_back(other.address);
      }
    }
    return card;
  }
};

Scene look_around(const std::string& verb, const DeviceOptions& options) {
  const auto address = base::parse_pci_address(options.address);
  if (!address) {
    throw Failure(ExitCode::usage,
                  "Cannot tell which device \"" + base::printable(options.address) +
                      "\" is: expected an address such as 0000:01:00.0; type: vmlaunch host");
  }
  Scene scene;
  scene.address = *address;
  // A name that recover takes, should this be killed; the verb's own, so that what one has left
  // does not stop the one that mends it.
  scene.spec.name = verb + "-" + base::to_string(*address);
  std::replace(scene.spec.name.begin(), scene.spec.name.end(), ':', '.');
  config::VmSpec::Pci entry;
  entry.device = {*address};
  entry.all_functions = true;
  entry.on_no_reset.rungs = {options.allowed.begin(), options.allowed.end()};
  scene.spec.pci = {entry};
  scene.spec.force_tainted = options.force_tainted;
  scene.survey = survey::look("", scene.spec, true);
  const PciFunction* device = scene.survey.pci.find(*address);
  if (device == nullptr) {
    throw Failure(
        ExitCode::preflight,
        "Cannot find the PCI device " + base::to_string(*address) + "; type: vmlaunch host");
  }
  if (device->is_bridge() && verb != "info") {
    throw Failure(ExitCode::preflight,
                  "Cannot " + verb + " " + base::to_string(*address) +
                      ": it is a bridge, to what is below it; type: vmlaunch host");
  }
  return scene;
}

void require_root(const std::string& what, const DeviceOptions& options) {
  if (::geteuid() != 0) {
    throw Failure(ExitCode::preflight,
                  "Cannot " + what + " " + base::printable(options.address) +
                      " without root; type: sudo vmlaunch device " + what + " " +
                      base::shell_quote(options.address));
  }
}

steps::Context context_of(const std::string& name) {
  return {name, {}, {}, {}, [](const std::string& text) { std::cout << text << std::endl; }};
}

/// Changes of the host that nobody waits for the end of: made as a VM's are, under the same locks
/// and with a journal, so that one that fails, or is killed, is undone.
class Change {
 public:
  explicit Change(const Scene& scene) : name_(scene.spec.name) {
    changes_.host().on_tell([this](const std::string& text) {
      std::cout << text << std::endl;
      was_reset_ = was_reset_ || text.ends_with(": done");
    });
    for (const std::string& line : changes_.begin(name_)) {
      std::cout << line << "\n";
    }
  }

  /// Throws what a step throws, with all undone.
  void apply(const std::vector<steps::Step>& all) {
    changes_.reserve(all);
    changes_.check(all);
    try {
      for (const steps::Step& step : all) {
        changes_.apply(step, context_of(name_));
      }
    } catch (...) {
      static_cast<void>(undo());
      throw;
    }
  }

  /// As if a guest had had it.
  void use() {
    changes_.after_start([](const std::string&) {});
  }

  ExitCode undo() {
    const steps::Undone undone = changes_.undo();
    for (const std::string& line : undone.leftovers) {
      std::cerr << "vmlaunch: " << line << "\n";
    }
    if (undone.again) {
      std::cerr << "vmlaunch: to try again, type: vmlaunch recover " << name_ << "\n";
    }
    return undone.code;
  }

  /// What was changed stays so: that was what was asked for.
  void keep() { changes_.keep(); }

  [[nodiscard]] bool was_reset() const { return was_reset_; }
  [[nodiscard]] steps::Host& host() { return changes_.host(); }

 private:
  std::string name_;
  guardian::HostChanges changes_;
  bool was_reset_ = false;
};

void require_free(steps::Host& host, const std::vector<PciAddress>& devices) {
  if (const std::string group = host.open_group_of(devices); !group.empty()) {
    throw Failure(ExitCode::device_busy,
                  "Cannot use " + base::to_string(devices.front()) +
                      ": a program has its IOMMU group " + group +
                      " open; type: fuser -v /dev/vfio/" + group);
  }
  for (const PciAddress& device : devices) {
    if (const auto holders = host.holders(device); !holders.empty()) {
      steps::refuse_held(device, holders);
    }
  }
}

ExitCode bind(const DeviceOptions& options) {
  require_root("bind", options);
  const Scene scene = look_around("bind", options);
  const plan::Passthrough passthrough = plan::choose_devices(scene.spec, scene.survey);
  std::vector<steps::Step> all;
  for (const std::string& driver : plan::takers_of(passthrough)) {
    all.push_back(steps::load_driver(driver));
  }
  const std::vector<steps::Step> binding = plan::binding_steps(passthrough);
  all.insert(all.end(), binding.begin(), binding.end());
  if (all.empty()) {
    std::cout << options.address << " is on vfio-pci already\n";
    return ExitCode::ended;
  }
  Change change(scene);
  change.apply(all);
  change.keep();
  std::cout << "bound to vfio-pci until the next boot, or until: vmlaunch device unbind "
            << options.address << "\n";
  return ExitCode::ended;
}

/// To the driver that the kernel finds by itself.
ExitCode unbind(const DeviceOptions& options) {
  require_root("unbind", options);
  const Scene scene = look_around("unbind", options);
  std::vector<PciAddress> card = scene.card();
  Change change(scene);
  std::erase_if(card, [&](const PciAddress& device) {
    return steps::driver_of(change.host(), device) != config::kVfioDriver;
  });
  if (card.empty()) {
    std::cout << options.address << " is not on vfio-pci\n";
    return ExitCode::ended;
  }
  require_free(change.host(), card);
  change.apply({steps::reset_card(card, {}, options.force_tainted)});
  change.keep();
  for (const PciAddress& device : card) {
    steps::give_to_host(change.host(), device);
    std::cout << base::to_string(device) << ": "
              << steps::named(steps::driver_of(change.host(), device)) << "\n";
  }
  return ExitCode::ended;
}

ExitCode reset(const DeviceOptions& options) {
  require_root("reset", options);
  const Scene scene = look_around("reset", options);
  const std::vector<PciAddress> card = scene.card();
  Change change(scene);
  for (const PciAddress& device : card) {
    if (const std::string driver = steps::driver_of(change.host(), device);
        driver != config::kVfioDriver) {
      throw Failure(ExitCode::device_busy,
                    "Cannot reset " + base::to_string(device) + ": it has " + steps::named(driver) +
                        ", which would not know of it; type: vmlaunch "
                        "device bind " +
                        base::to_string(device));
    }
  }
  require_free(change.host(), card);
  change.apply({steps::reset_card(card, scene.spec.pci.front().on_no_reset, true)});
  change.use();
  const ExitCode code = change.undo();
  if (code == ExitCode::ended) {
    std::cout << (change.was_reset() ? "reset, and seen to work\n"
                                     : "it works, and there is no way to reset it\n");
  }
  return code;
}

ExitCode rescan(const DeviceOptions& options) {
  require_root("rescan", options);
  Scene scene = look_around("rescan", options);
  // What the host needs is not removed from under it.
  scene.spec.pci.front().rescan = true;
  const plan::Passthrough passthrough = plan::choose_devices(scene.spec, scene.survey);
  Change change(scene);
  change.apply({steps::rescan_card(passthrough.rescanned.front())});
  change.keep();
  std::cout << "found anew, with the drivers and settings that it had\n";
  return ExitCode::ended;
}

std::string words_of(const steps::VfioReset& answer) {
  std::vector<std::string> others;
  others.reserve(answer.together.size());
  for (const PciAddress& other : answer.together) {
    others.push_back(base::to_string(other));
  }
  return std::string(answer.alone ? "by itself" : "not by itself") +
         (others.empty() ? "; with no other" : "; with its bus: " + base::join(others, ", "));
}

/// vfio is asked by opening the device, which takes root, vfio-pci, and nobody else who has it.
std::string ask_vfio(const steps::Host& host, const PciAddress& device) {
  if (steps::driver_of(host, device) != config::kVfioDriver) {
    return "not asked: the device has " + steps::named(steps::driver_of(host, device));
  }
  try {
    return words_of(host.ask_vfio({device}).front());
  } catch (const std::system_error& error) {
    return std::string("not asked: ") + error.what();
  }
}

std::string read_word(const steps::Host& host, const PciAddress& device, const char* name) {
  return base::printable(
      host.tree().read(steps::device_folder(device) + "/" + name).value_or("not told"));
}

ExitCode info(const DeviceOptions& options) {
  const Scene scene = look_around("info", options);
  const PciFunction& device = scene.device();
  const steps::Host host;
  const auto had = steps::reserved_devices(steps::find_state_folders().locks);
  const auto owner = had.find(device.address);
  const auto taint = steps::find_taint(host, device.address);
  const std::string fault = steps::find_fault(host, {device.address}, host.kernel_log({}, 0).next);
  const std::vector<std::pair<std::string, std::string>> facts = {
      {"device", survey::describe(device, scene.survey.pci, survey::PciNames())},
      {"methods", read_word(host, device.address, "reset_method")},
      {"vfio", owner != had.end() ? "not asked: " + owner->second : ask_vfio(host, device.address)},
      {"power",
       read_word(host, device.address, "power_state") + ", control " +
           read_word(host, device.address, "power/control") + ", d3cold_allowed " +
           read_word(host, device.address, "d3cold_allowed")},
      {"had_by", owner != had.end() ? owner->second : "no VM"},
      {"state", owner != had.end() ? "in use" : (fault.empty() ? "works" : fault)},
      {"taint", taint ? steps::describe(device.address, *taint) : "none"}};
  if (options.json) {
    std::cout << Json(std::map<std::string, std::string>(facts.begin(), facts.end()))
                     .dump(2, ' ', false, Json::error_handler_t::replace)
              << "\n";
    return ExitCode::ended;
  }
  for (const auto& [name, value] : facts) {
    std::cout << name << ": " << value << "\n";
  }
  return ExitCode::ended;
}

struct Verb {
  const char* name;
  const char* help;
  ExitCode (*run)(const DeviceOptions& options);
};

constexpr std::array kVerbs = {
    Verb{"info", "Tell what a device is, how it can be reset and whether it works", info},
    Verb{"reset", "Reset a card that vfio-pci has, and see that it works", reset},
    Verb{"bind", "Take a card from its drivers and bind it to vfio-pci", bind},
    Verb{"unbind", "Give a card back to the host's drivers", unbind},
    Verb{"rescan", "Remove a card and find it anew", rescan},
};

}  // namespace

void add_device(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand("device", "Look at one PCI device, or change it");
  verb->require_subcommand(1);
  for (const Verb& one : kVerbs) {
    CLI::App* sub = verb->add_subcommand(one.name, one.help);
    auto options = std::make_shared<DeviceOptions>();
    sub->add_option("ADDRESS", options->address, "As vmlaunch host shows it")->required();
    if (one.run == info) {
      sub->add_flag("--json", options->json, "For programs");
    } else if (one.run == reset) {
      const auto& names = config::rung_names();
      sub->add_option("--allow", options->allowed, "What else may be tried, when all else failed")
          ->transform(CLI::CheckedTransformer(
              std::map<std::string, config::ResetRung>(names.begin(), names.end())))
          ->type_name("rescan|bridge");
    } else if (one.run == unbind) {
      sub->add_flag("--force-tainted",
                    options->force_tainted,
                    "Also one that did not come back from a guest");
    }
    sub->callback([&choice, options, run = one.run] {
      choice.command = [options, run] { return run(*options); };
    });
  }
}

}  // namespace vmlaunch::launcher::cli
