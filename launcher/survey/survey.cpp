#include "launcher/survey/survey.hpp"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.hpp"
#include "launcher/survey/cgroup.hpp"

namespace vmlaunch::launcher::survey {

namespace {

Kvm look_at_kvm(const base::Tree& tree) {
  Kvm kvm;
  kvm.node = tree.exists("/dev/kvm");
  kvm.usable_by_caller = ::access(tree.path_of("/dev/kvm").c_str(), R_OK | W_OK) == 0;
  kvm.vendor_module = tree.exists("/sys/module/kvm_intel") || tree.exists("/sys/module/kvm_amd");
  kvm.pvm_module = tree.exists("/sys/module/kvm_pvm");
  return kvm;
}

/// Root's guardian opens it whatever it belongs to.
bool can_use(const base::Tree& tree, const std::string& node, bool privileged) {
  return ::access(tree.path_of(node).c_str(), privileged ? F_OK : R_OK | W_OK) == 0;
}

std::optional<Uefi> find_uefi(const base::Tree& tree) {
  for (const auto& [code, vars] : kUefiBuilds) {
    if (tree.exists(code) && tree.exists(vars)) {
      return Uefi{code, vars};
    }
  }
  return std::nullopt;
}

void look_at_devices(const base::Tree& tree, Survey& survey) {
  survey.pci = look_at_pci(tree);
  for (const std::string& name : tree.list("/dev/vfio")) {
    const auto group = base::parse_number<unsigned>(name);
    if (group && ::access(tree.path_of("/dev/vfio/" + name).c_str(), R_OK | W_OK) == 0) {
      survey.open_groups.insert(*group);
    }
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    survey.memlock_limit = limit.rlim_max;
  }
}

}  // namespace

Survey look(const std::string& root, const config::VmSpec& spec, bool privileged) {
  Survey survey;
  const base::Tree tree(root);
  survey.cgroup = find_cgroup_parent(tree, privileged).has_value();
  if (!spec.pci.empty()) {
    look_at_devices(tree, survey);
  }
  survey.links = look_at_links(tree, spec.network);
  survey.vhost_net = can_use(tree, "/dev/vhost-net", privileged);
  survey.kvm = look_at_kvm(tree);
  survey.uefi = find_uefi(tree);
  if (spec.run_as) {
    survey.run_as = find_user(*spec.run_as);
  }
  for (const config::VmSpec::Disk& disk : spec.disks) {
    if (const auto file = tree.status(disk.path); file && S_ISBLK(file->st_mode)) {
      survey.block_devices.insert(disk.path);
    }
  }
  return survey;
}

}  // namespace vmlaunch::launcher::survey
