#include "launcher/survey/kernel.hpp"

#include <algorithm>
#include <array>
#include <span>

#include "base/text.hpp"

namespace vmlaunch::launcher::survey {

namespace {

constexpr const char* kCommandLine = "/proc/cmdline";

/// Names before "=" (Documentation/admin-guide/kernel-parameters.txt).
constexpr std::array<std::string_view, 32> kNames = {
    "amd_iommu",
    "amd_pstate",
    "cgroup_disable",
    "cgroup_no_v1",
    "default_hugepagesz",
    "hugepages",
    "hugepagesz",
    "hugetlb_cma",
    "initcall_blacklist",
    "intel_iommu",
    "intel_pstate",
    "iommu",
    "irqaffinity",
    "isolcpus",
    "lockdown",
    "maxcpus",
    "mem",
    "mitigations",
    "modprobe.blacklist",
    "module_blacklist",
    "nohz_full",
    "nomodeset",
    "nosmt",
    "numa",
    "pci",
    "pcie_acs_override",
    "pcie_aspm",
    "pcie_port_pm",
    "rcu_nocb_poll",
    "rcu_nocbs",
    "systemd.unified_cgroup_hierarchy",
    "transparent_hugepage",
};

/// Modules, of which every parameter counts.
constexpr std::array<std::string_view, 8> kModules = {
    "iommu",
    "kvm",
    "kvm_amd",
    "kvm_intel",
    "kvm_pvm",
    "vfio",
    "vfio_iommu_type1",
    "vfio_pci",
};

/// What each module is asked for; "ids" of vfio_pci can be seen on the command line only.
struct Asked {
  const char* module;
  std::vector<const char*> parameters;
};

std::vector<Asked> asked_modules() {
  return {{"kvm", {"halt_poll_ns", "ignore_msrs"}},
          {"kvm_amd", {"avic", "nested"}},
          {"kvm_intel", {"enable_apicv", "nested"}},
          {"kvm_pvm", {}},
          {"vfio", {"enable_unsafe_noiommu_mode"}},
          {"vfio_iommu_type1", {"allow_unsafe_interrupts", "dma_entry_limit"}},
          {"vfio_pci", {"disable_idle_d3", "disable_vga", "nointxmask"}}};
}

bool is_one_of(std::span<const std::string_view> list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

/// The kernel takes "-" and "_" in a name for the same.
bool bears_on_guests(std::string_view word) {
  std::string name(word.substr(0, word.find('=')));
  std::replace(name.begin(), name.end(), '-', '_');
  return is_one_of(kNames, name) || is_one_of(kModules, name.substr(0, name.find('.')));
}

/// Of "none [integrity] confidentiality" the one that holds.
std::optional<std::string> parse_lockdown(const std::string& text) {
  for (const std::string& word : base::split(text, ' ')) {
    if (word.size() > 2 && word.front() == '[' && word.back() == ']') {
      return word.substr(1, word.size() - 2);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<CommandLine> look_at_command_line(Reader& reader) {
  const std::optional<std::string> text = reader.text(kCommandLine);
  if (!text) {
    return std::nullopt;
  }
  CommandLine words;
  for (const std::string& word : base::split(*text, ' ')) {
    if (bears_on_guests(word)) {
      words.push_back(word);
    }
  }
  reader.keep(kCommandLine, base::join(words, " "));
  return words;
}

Kernel look_at_kernel(Reader& reader) {
  Kernel kernel;
  kernel.release = reader.text("/proc/sys/kernel/osrelease").value_or("");
  kernel.command_line = look_at_command_line(reader);
  kernel.lockdown = reader.parse("/sys/kernel/security/lockdown", parse_lockdown).value_or("");
  for (const Asked& asked : asked_modules()) {
    const std::string folder = std::string("/sys/module/") + asked.module;
    if (!reader.has(folder)) {
      continue;
    }
    Module module{asked.module, {}};
    for (const char* name : asked.parameters) {
      if (const auto value = reader.text(folder + "/parameters/" + name)) {
        module.parameters[name] = *value;
      }
    }
    kernel.modules.push_back(module);
  }
  return kernel;
}

std::string parameter_file(const std::string& parameter) {
  const std::size_t dot = parameter.find('.');
  return "/sys/module/" + parameter.substr(0, dot) + "/parameters/" +
         (dot == std::string::npos ? "" : parameter.substr(dot + 1));
}

}  // namespace vmlaunch::launcher::survey
