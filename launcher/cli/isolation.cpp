#include <unistd.h>

#include <csignal>
#include <ctime>
#include <iostream>
#include <memory>

#include "base/affinity.hpp"
#include "base/process_stat.hpp"
#include "base/text.hpp"
#include "launcher/cli/verbs.hpp"
#include "launcher/isolation/report.hpp"
#include "launcher/steps/lock.hpp"
#include "launcher/steps/state_folders.hpp"

namespace vmlaunch::launcher::cli {

namespace {

struct IsolationOptions {
  std::string target;
  unsigned seconds = 5;
  bool live = false;
  bool json = false;
};

/// CPUs, and the vCPUs for which they are.
struct Target {
  base::CpuSet cpus;
  std::vector<pid_t> vcpus;  ///< none: no guest runs there yet
};

/// The vCPUs of a process; none for one that is no QEMU.
std::vector<pid_t> vcpus_of(const base::Tree& tree, const std::string& process) {
  std::vector<pid_t> vcpus;
  for (const std::string& thread : tree.list("/proc/" + process + "/task")) {
    const auto stat = base::stat_of(tree, process + "/task/" + thread);
    // As QEMU names them for people (-name debug-threads=on).
    if (stat && stat->name.starts_with("CPU ") && stat->name.find('/') != std::string::npos) {
      vcpus.push_back(static_cast<pid_t>(base::parse_number<unsigned>(thread).value_or(0)));
    }
  }
  return vcpus;
}

Target find_vm(const base::Tree& tree, const std::string& name) {
  const auto guardian = steps::Lock::holder(steps::find_state_folders().locks, name);
  Target target;
  for (const std::string& process : tree.list("/proc")) {
    const auto stat =
        base::parse_number<unsigned>(process) ? base::stat_of(tree, process) : std::nullopt;
    if (guardian && stat && stat->parent == *guardian) {
      const std::vector<pid_t> vcpus = vcpus_of(tree, process);
      target.vcpus.insert(target.vcpus.end(), vcpus.begin(), vcpus.end());
    }
  }
  for (const pid_t vcpu : target.vcpus) {
    target.cpus.merge(base::affinity_of(vcpu));
  }
  if (target.cpus.empty()) {
    throw Failure(ExitCode::not_running,
                  "Cannot look at " + base::printable(name) +
                      ": it is neither a list of CPUs (2-5,8) nor a VM of yours that runs; VMs of "
                      "root's are root's to see: sudo vmlaunch isolation " +
                      base::shell_quote(name));
  }
  return target;
}

Target find_target(const base::Tree& tree, const std::string& text) {
  const auto cpus = base::parse_cpu_set(text);
  if (!cpus || cpus->empty()) {
    return find_vm(tree, text);
  }
  const base::CpuSet online =
      base::parse_cpu_set(tree.read("/sys/devices/system/cpu/online").value_or(""))
          .value_or(base::CpuSet());
  const base::CpuSet missing = base::without(*cpus, online);
  if (!missing.empty()) {
    throw Failure(ExitCode::usage,
                  "Cannot look at the CPUs " + base::to_string(missing) +
                      ": they are not there or offline; type: cat /sys/devices/system/cpu/online");
  }
  return {*cpus, {}};
}

void pause_until(std::chrono::steady_clock::time_point end) {
  const auto left = end - std::chrono::steady_clock::now();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  timespec time{seconds.count(), std::chrono::nanoseconds(left - seconds).count()};
  while (left.count() > 0 && ::nanosleep(&time, &time) != 0) {
  }
}

isolation::Report look(const base::Tree& tree, const Target& target, std::chrono::seconds time) {
  const isolation::Counters before = isolation::count(tree, target.cpus, target.vcpus);
  std::vector<std::pair<unsigned, isolation::Probe>> probes;
  if (target.vcpus.empty()) {
    probes = isolation::probe(target.cpus, time);
  }
  pause_until(before.taken + time);
  const isolation::Counters after = isolation::count(tree, target.cpus, target.vcpus);
  isolation::Report report = isolation::compare(before, after, target.cpus, target.vcpus);
  for (isolation::CpuReport& cpu : report.cpus) {
    cpu.was_closed = target.vcpus.empty();
    for (const auto& [number, found] : probes) {
      if (number == cpu.cpu) {
        cpu.probe = found;
        cpu.was_closed = false;
      }
    }
  }
  return report;
}

void print(const isolation::Report& report, const IsolationOptions& options) {
  if (options.json) {
    std::cout << to_json(report).dump(2, ' ', false, config::Json::error_handler_t::replace)
              << "\n";
    return;
  }
  if (options.live && ::isatty(STDOUT_FILENO) != 0) {
    std::cout << "\033[H\033[J";  // a new page
  }
  std::cout << to_text(report);
}

ExitCode measure(const IsolationOptions& options) {
  const base::Tree tree("");
  bool is_first = true;
  do {
    try {
      const Target target = find_target(tree, options.target);
      print(look(tree, target, std::chrono::seconds(options.seconds)), options);
    } catch (const Failure& failure) {
      if (is_first || failure.code() != ExitCode::not_running) {
        throw;
      }
      std::cout << "it does not run any more\n";
      return ExitCode::ended;
    }
    is_first = false;
  } while (options.live && std::cout.flush());
  return ExitCode::ended;
}

}  // namespace

void add_isolation(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand(
      "isolation", "Measure who has a VM's CPUs beside its vCPUs, or some CPUs before a start");
  auto options = std::make_shared<IsolationOptions>();
  verb->add_option("TARGET", options->target, "A running VM's name, or CPUs: 2-5,8")->required();
  verb->add_option("--seconds", options->seconds, "For how long")
      ->check(CLI::Range(1U, 3600U))
      ->capture_default_str();
  verb->add_flag("--live", options->live, "Again and again, until it is interrupted");
  verb->add_flag("--json", options->json, "For programs");
  verb->callback([&choice, options] { choice.command = [options] { return measure(*options); }; });
}

}  // namespace vmlaunch::launcher::cli
