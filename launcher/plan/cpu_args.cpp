#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "base/text.hpp"
#include "launcher/plan/arguments.hpp"
#include "launcher/survey/cpus.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::VmSpec;
using Names = std::set<std::string>;

/// An enlightenment, how QEMU is given it, and what it builds on (QEMU's
/// docs/system/i386/hyperv.rst). The lock is retried as often as that document advises.
struct Enlightenment {
  const char* name;
  const char* value = "";
  std::vector<const char*> after = {};
};

const std::vector<Enlightenment>& all_enlightenments() {
  static const std::vector<Enlightenment> all = {{"relaxed"},
                                                 {"vapic"},
                                                 {"spinlocks", "=0x1fff"},
                                                 {"vpindex"},
                                                 {"runtime"},
                                                 {"synic", "", {"vpindex"}},
                                                 {"time"},
                                                 {"stimer", "", {"synic", "time"}},
                                                 {"stimer-direct", "", {"stimer"}},
                                                 {"frequencies"},
                                                 {"tlbflush", "", {"vpindex"}},
                                                 {"ipi", "", {"vpindex"}},
                                                 {"avic", "", {"vapic", "synic"}}};
  return all;
}

/// Where KVM cannot be asked: what all kernels have that are still kept.
bool is_common(const std::string& name) {
  return name != "stimer-direct" && name != "avic";
}

/// In QEMU's words, without those that the config leaves out or KVM does not offer, and what builds
/// on them.
std::string enlighten(Arguments& args, const config::Hyperv& hyperv) {
  const auto& offered = args.survey.hyperv;
  Names given;
  std::vector<std::string> lacking;
  std::string options;
  for (const Enlightenment& one : all_enlightenments()) {
    const bool can = offered ? offered->contains(one.name) : is_common(one.name);
    const bool is_wanted = !hyperv.without.contains(one.name);
    const bool is_based = std::all_of(
        one.after.begin(), one.after.end(), [&](const char* name) { return given.contains(name); });
    if (can && is_wanted && is_based) {
      given.insert(one.name);
      options += std::string(",hv-") + one.name + one.value;
    } else if (is_wanted && is_common(one.name) && !can) {
      lacking.emplace_back(one.name);
    }
  }
  if (!lacking.empty()) {
    args.plan.warnings.push_back("this KVM does not offer, of Hyper-V's interface, " +
                                 base::join(lacking, ", ") +
                                 ": the guest is started without; a newer kernel has it");
  }
  args.tell("Hyper-V's interface: " + base::join({given.begin(), given.end()}, " "),
            "\"cpu\": {\"hyperv\": {\"without\": […]}}");
  return options;
}

/// How KVM shows itself; in software there is none to show.
std::string hypervisor(Arguments& args) {
  const VmSpec::Cpu& cpu = args.spec.cpu;
  if (!args.kvm && (cpu.hide_hypervisor || cpu.hyperv)) {
    args.plan.warnings.emplace_back(
        "cpu.hide_hypervisor and cpu.hyperv need KVM: the guest is started without them");
  }
  std::string options = args.kvm && cpu.hide_hypervisor ? ",kvm=off" : "";
  if (args.kvm && cpu.hyperv) {
    options += enlighten(args, *cpu.hyperv);
    options += cpu.hyperv->vendor_id ? ",hv-vendor-id=" + *cpu.hyperv->vendor_id : "";
  }
  return options;
}

/// What is the processor's own is shown as it is, where the vCPUs stay on their CPUs; but for what
/// the config says itself about it.
std::string own_topology(Arguments& args, const std::string& features) {
  std::string options;
  const auto show = [&](const std::string& feature, const std::string& what) {
    if (features.find(feature) == std::string::npos) {
      options += "," + feature + "=on";
      args.tell(what, "\"cpu\": {\"model\": \"host," + feature + "=off\"}");
    }
  };
  // QEMU leaves it out for AMD's, which then have no threads for their guests.
  if (survey::is_amd(args.survey.cpu_vendor) && args.spec.cpu.threads > 1) {
    show("topoext",
         "cores of " + std::to_string(args.spec.cpu.threads) +
             " threads, which AMD's say by topoext");
  }
  if (args.plan.placement.pinned()) {
    show("host-cache-info", "the host's caches, as the vCPUs have them");
  }
  return options;
}

void topology(Arguments& args) {
  const VmSpec::Cpu& cpu = args.spec.cpu;
  const unsigned dies = args.plan.placement.dies;
  args.add("-smp",
           "cpus=" + std::to_string(cpu.count()) + ",sockets=" + std::to_string(cpu.sockets) +
               (dies > 1 ? ",dies=" + std::to_string(dies) : "") + ",cores=" +
               std::to_string(cpu.cores / dies) + ",threads=" + std::to_string(cpu.threads));
  if (dies > 1) {
    args.tell(std::to_string(dies) + " dies, since the vCPUs' CPUs have so many last-level caches",
              "another \"pin\"");
  }
}

/// An idle vCPU halts the CPU itself and wakes at once, without KVM and the host's scheduler: where
/// nobody else waits for that CPU.
bool idles_itself(const Arguments& args) {
  return args.kvm && args.spec.cpu.power_management.value_or(args.plan.placement.alone);
}

}  // namespace

void add_cpu(Arguments& args) {
  const std::string model = args.spec.cpu.model.value_or(args.kvm ? "host" : "max");
  const std::size_t end = std::min(model.find(','), model.size());
  std::string name = model.substr(0, end);
  const std::string features = model.substr(end);
  if (!args.kvm && name == "host") {
    args.plan.warnings.emplace_back("CPU model \"host\" needs KVM: \"max\" is used instead");
    name = "max";
  }
  const std::string own = args.kvm && name == "host" ? own_topology(args, features) : "";
  args.add("-cpu", name + own + features + hypervisor(args));
  topology(args);
  std::vector<std::string> overcommit;
  if (args.spec.memory.locked) {
    overcommit.emplace_back("mem-lock=on");
  }
  if (idles_itself(args)) {
    overcommit.emplace_back("cpu-pm=on");
    args.tell(
        "idle vCPUs halt their CPUs themselves (cpu-pm): they wake sooner, and look busy from "
        "the host",
        R"("cpu": {"power_management": false})");
  }
  if (!overcommit.empty()) {
    args.add("-overcommit", base::join(overcommit, ","));
  }
}

}  // namespace vmlaunch::launcher::plan
