#include <linux/capability.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr const char* kExclusive = "/cpuset.cpus.exclusive";
constexpr std::size_t kMostFolders = 32;

/// Keeps all tasks of the host off the vCPUs' CPUs: an isolated partition in the VM's cgroup, for
/// the vCPUs' threads alone. Partitions below one that is none ("remote") exist since Linux 6.7,
/// and need the CPUs to be exclusive in each cgroup above
/// (Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.exclusive), which are other VMs' too.
class IsolateCpus final : public JointChange {
 public:
  IsolateCpus(std::string vm, base::CpuSet cpus) : vm_(std::move(vm)), cpus_(std::move(cpus)) {}

  const char* kind() const override { return "isolate-cpus"; }
  // For the partition; the files of cgroups are root's own.
  std::vector<int> capabilities() const override { return {CAP_SYS_ADMIN}; }

  Step read(Fields& fields) const override {
    std::string vm = fields.text("vm");
    if (!config::is_vm_name(vm)) {
      throw FormError("not a VM's name");
    }
    return isolate_cpus(std::move(vm), read_cpus(fields, "cpus"));
  }
  void write(Json& json) const override {
    json.update({{"vm", vm_}, {"cpus", base::to_string(cpus_)}});
  }

  bool fits_plan_of(const std::string& vm) const override { return vm == vm_; }

  std::string describe() const override {
    return "keep all tasks of the host off the CPUs " + base::to_string(cpus_) +
           ": an isolated partition in the VM's cgroup";
  }
  std::string describe_undo() const override { return "the CPUs are everybody's again"; }
  std::string object() const override { return "cpuset"; }

  /// The cgroups above may be others' too: what they had stays in them.
  Json capture_beside(const Host& host,
                      const Context& /*context*/,
                      const std::vector<Json>& /*others*/) const override {
    Json above = Json::array();
    for (const std::string& folder : folders_above(host)) {
      const std::string before = host.tree().read(folder + kExclusive).value_or("");
      above.push_back({{"folder", wire_text(folder)}, {"cpus", wire_text(before)}});
    }
    return {{"cgroup", wire_text(cgroup_of(host, vm_))}, {"above", above}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    const std::string cgroup = cgroup_of(host, vm_);
    const std::string own = cgroup + "/" + kVcpuCgroup;
    const std::string cpus = base::to_string(cpus_);
    for (const std::string& folder : folders_above(host)) {
      base::CpuSet all = read_exclusive(host, folder);
      all.insert(cpus_.begin(), cpus_.end());
      host.write(folder + kExclusive, base::to_string(all));
    }
    host.write(cgroup + "/cgroup.subtree_control", "+cpuset");
    host.write(cgroup + kExclusive, cpus);
    host.make_folder(own);
    host.write(own + "/cgroup.type", "threaded");
    host.write(own + "/cpuset.cpus", cpus);
    host.write(own + kExclusive, cpus);
    host.write(own + "/cpuset.cpus.partition", "isolated");
    const std::string became =
        host.tree().read(own + "/cpuset.cpus.partition").value_or("not to be had");
    if (became != "isolated") {
      throw Failure(ExitCode::preflight,
                    "Cannot isolate the CPUs " + cpus + ": the kernel says that the partition is " +
                        base::printable(became) +
                        "; type: cat /sys/fs/cgroup/cpuset.cpus.isolated");
    }
  }

  void undo_beside(Host& host,
                   const Json& found,
                   const std::vector<Json>& /*others*/) const override {
    Fields fields(found);
    const std::string cgroup = read_cgroup(fields, "cgroup");
    const std::string own = cgroup + "/" + kVcpuCgroup;
    if (host.tree().exists(own)) {
      host.remove_folder(own);  // the partition goes with it
    }
    if (host.tree().exists(cgroup + kExclusive)) {
      host.write(cgroup + kExclusive, "");
      // Who gives a controller on keeps it on above, too.
      host.write(cgroup + "/cgroup.subtree_control", "-cpuset");
    }
    for (const Json& one : fields.array("above", kMostFolders)) {
      Fields folder(one);
      const std::string path = folder.text("folder");
      const auto before = base::parse_cpu_set(folder.text("cpus"));
      if (!path.starts_with('/') || path.find("/../") != std::string::npos || !before) {
        throw FormError("not a cgroup and its CPUs");
      }
      const base::CpuSet now = read_exclusive(host, path);
      const base::CpuSet wanted = base::without(now, base::without(cpus_, *before));
      if (wanted != now) {
        host.write(path + kExclusive, base::to_string(wanted));
      }
    }
  }

 private:
  static base::CpuSet read_exclusive(const Host& host, const std::string& folder) {
    return base::parse_cpu_set(host.tree().read(folder + kExclusive).value_or(""))
        .value_or(base::CpuSet());
  }

  /// Between the root and the VM's cgroup, from above.
  [[nodiscard]] std::vector<std::string> folders_above(const Host& host) const {
    std::vector<std::string> folders;
    std::string folder = cgroup_parent(host);
    // The root of the tree has no such file.
    while (folders.size() < kMostFolders && host.tree().exists(folder + kExclusive)) {
      folders.insert(folders.begin(), folder);
      folder = folder.substr(0, folder.rfind('/'));
    }
    return folders;
  }

  std::string vm_;
  base::CpuSet cpus_;
};

}  // namespace

Step isolate_cpus(std::string vm, base::CpuSet cpus) {
  return Step(std::make_shared<IsolateCpus>(std::move(vm), std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
