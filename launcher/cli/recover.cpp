#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/text.hpp"
#include "launcher/cli/verbs.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/steps/recovery.hpp"
#include "launcher/steps/taints.hpp"

namespace vmlaunch::launcher::cli {

namespace {

struct RecoverOptions {
  std::vector<std::string> vms;
  bool dry_run = false;
  bool after_guardian = false;
};

/// What would be undone, last things first; nothing is changed.
ExitCode show(const steps::StateFolders& folders, const std::string& vm) {
  for (const std::string& line : steps::would_undo(folders, vm)) {
    std::cout << vm << ": would undo: " << line << "\n";
  }
  return ExitCode::ended;
}

/// With another try for devices that did not come back, if somebody asks for that.
std::optional<steps::Undone> try_again(steps::Host& host,
                                       const steps::StateFolders& folders,
                                       const std::string& vm,
                                       bool asked_for) {
  std::map<base::PciAddress, steps::Taint> taints = steps::find_taints(host);
  std::erase_if(taints, [&](const auto& entry) { return !asked_for || entry.second.vm != vm; });
  for (const auto& [device, taint] : taints) {
    steps::clear_taint(host, device);
  }
  const auto undone = steps::recover_vm(host, folders, vm);
  // A try that did not come to them changes nothing.
  if (undone && (undone->code == ExitCode::held || undone->code == ExitCode::stuck)) {
    for (const auto& [device, taint] : taints) {
      if (!steps::find_taint(host, device)) {
        steps::set_taint(host, device, taint);
      }
    }
  }
  return undone;
}

ExitCode restore(const steps::StateFolders& folders, const std::string& vm, bool asked_for) {
  steps::Host host;
  host.on_tell([&](const std::string& text) { std::cout << vm << ": " << text << std::endl; });
  const auto undone = try_again(host, folders, vm, asked_for);
  if (!undone) {
    std::cout << vm << ": nothing to put back\n";
    return ExitCode::ended;
  }
  for (const std::string& line : undone->restored) {
    std::cout << vm << ": " << line << "\n";
  }
  for (const std::string& line : undone->leftovers) {
    std::cerr << "vmlaunch: " << vm << ": not put back: " << line << "\n";
  }
  if (undone->code == ExitCode::ended) {
    std::cout << vm << ": host restored\n";
  }
  return undone->code;
}

/// A VM that runs.
ExitCode leave(const steps::StateFolders& folders, const std::string& vm, bool asked_for) {
  if (!asked_for) {
    return ExitCode::ended;
  }
  std::cerr << "vmlaunch: " << vm << " runs" << steps::Lock::describe_holder(folders.locks, vm)
            << ": there is nothing to recover\n";
  return ExitCode::held;
}

ExitCode recover_one(const steps::StateFolders& folders,
                     const std::string& vm,
                     const RecoverOptions& options) {
  const bool asked_for = !options.vms.empty();
  if (options.dry_run) {
    return steps::Lock::holder(folders.locks, vm) ? leave(folders, vm, asked_for)
                                                  : show(folders, vm);
  }
  const auto lock = steps::Lock::take(folders.locks, vm, steps::Lock::Purpose::recovery);
  return lock ? restore(folders, vm, !options.after_guardian) : leave(folders, vm, asked_for);
}

/// What systemd says of the unit whose last command this is (systemd.exec(5)). A guardian that
/// ended by itself has done all that could be done.
bool guardian_ended_well() {
  const char* result = std::getenv("SERVICE_RESULT");
  return result != nullptr && std::string(result) == "success";
}

ExitCode recover(const RecoverOptions& options) {
  if (options.after_guardian && guardian_ended_well()) {
    return ExitCode::ended;
  }
  const steps::StateFolders folders = steps::find_state_folders();
  if (!options.dry_run) {
    steps::make_state_folders(folders);
  }
  std::vector<std::string> vms = options.vms;
  if (vms.empty()) {
    vms = steps::journalled_vms(folders.journal);
  }
  ExitCode code = ExitCode::ended;
  for (const std::string& vm : vms) {
    try {
      if (!config::is_vm_name(vm)) {
        throw Failure(options.vms.empty() ? ExitCode::host_not_restored : ExitCode::usage,
                      "Cannot recover \"" + base::printable(vm) + "\": that is no VM's name" +
                          (options.vms.empty() ? "; look into " + folders.journal : ""));
      }
      code = worse(code, recover_one(folders, vm, options));
    } catch (const Failure& failure) {
      std::cerr << "vmlaunch: " << failure.what() << "\n";
      code = worse(code, failure.code());
    } catch (const std::system_error& error) {
      std::cerr << "vmlaunch: Cannot recover " << vm << ": " << error.what() << "\n";
      code = worse(code, ExitCode::host_not_restored);
    }
  }
  if (!options.dry_run) {
    steps::Lock::clear(folders.locks);
  }
  return code;
}

}  // namespace

void add_recover(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand(
      "recover",
      "Put back what a dead run has left changed on the host; all of them, or those named");
  auto options = std::make_shared<RecoverOptions>();
  verb->add_option("VM", options->vms, "Names of VMs");
  verb->add_flag("--dry-run", options->dry_run, "Only print what would be undone");
  verb->add_flag("--after-guardian", options->after_guardian)->group("");
  verb->callback([&choice, options] { choice.command = [options] { return recover(*options); }; });
}

}  // namespace vmlaunch::launcher::cli
