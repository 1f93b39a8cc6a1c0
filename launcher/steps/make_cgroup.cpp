#include <linux/capability.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/text.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/cgroup.hpp"

namespace vmlaunch::launcher::steps {

namespace {

std::string name_for(const std::string& vm) {
  return std::string(kCgroupPrefix) + vm;
}

/// Makes the VM's cgroup, in which QEMU is born: nothing of it can hide from its end.
class MakeCgroup final : public Change {
 public:
  MakeCgroup(std::string vm, bool in_unit) : vm_(std::move(vm)), in_unit_(in_unit) {}

  const char* kind() const override { return "make-cgroup"; }
  std::vector<int> capabilities() const override {
    return {CAP_DAC_OVERRIDE};
  }  // the root cgroup is 0555

  Step read(Fields& fields) const override {
    std::string vm = fields.text("vm");
    if (!config::is_vm_name(vm)) {
      throw FormError("not a VM's name");
    }
    return make_cgroup(std::move(vm), fields.boolean("in_unit"));
  }

  void write(Json& json) const override {
    json["vm"] = vm_;
    json["in_unit"] = in_unit_;
  }

  // A run has no cgroup but its own.
  bool fits_plan_of(const std::string& vm) const override { return vm == vm_; }

  std::string describe() const override {
    return "make the cgroup " + name_for(vm_) + (in_unit_ ? " in the guardian's unit" : "");
  }
  std::string describe_undo() const override { return "removed"; }
  std::string object() const override { return "cgroup"; }

  void check(const Host& host) const override {
    if (in_unit_) {
      return;  // which is new, or, before a run, not there yet
    }
    const std::string path = cgroup_of(host, vm_);
    if (const auto events = host.tree().read(path + "/cgroup.events");
        events && events->find("populated 0") == std::string::npos) {
      throw Failure(ExitCode::preflight,
                    "Cannot use the cgroup " + path + ": processes live in it; type: cat " +
                        base::shell_quote(path + "/cgroup.procs"));
    }
  }

  Json capture(const Host& host, const Context& /*context*/) const override {
    const std::string path = cgroup_of(host, vm_);
    return {{"path", wire_text(path)}, {"made", !host.tree().exists(path)}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& /*note*/) const override {
    if (found.at("made").get<bool>()) {
      host.make_folder(Fields(found).text("path"));
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::string path = read_cgroup(fields, "path");
    if (!fields.boolean("made") || !host.tree().exists(path)) {
      return;
    }
    try {
      host.remove_folder(path);
    } catch (const std::system_error& error) {
      if (error.code().value() != EBUSY) {
        throw;
      }
      throw ChangedMeanwhile("the cgroup " + path + " is used by somebody else; type: cat " +
                             base::shell_quote(path + "/cgroup.procs"));
    }
  }

 private:
  std::string vm_;
  bool in_unit_;  ///< the guardian is a unit of systemd, to which its cgroups are delegated
};

}  // namespace

Step make_cgroup(std::string vm, bool in_unit) {
  return Step(std::make_shared<MakeCgroup>(std::move(vm), in_unit));
}

std::string read_cgroup(Fields& fields, const char* key) {
  std::string path = fields.text(key);
  const std::size_t name = path.rfind('/') + 1;
  const bool ours = path.starts_with('/') && path.find("/../") == std::string::npos &&
                    path.substr(name).starts_with(kCgroupPrefix) &&
                    config::is_vm_name(path.substr(name + kCgroupPrefix.size()));
  if (!path.empty() && !ours) {
    throw FormError("not a VM's cgroup");
  }
  return path;
}

std::string cgroup_parent(const Host& host) {
  const auto parent = survey::find_cgroup_parent(host.tree(), ::geteuid() == 0);
  if (!parent) {
    throw Failure(ExitCode::preflight,
                  "Cannot make a cgroup: no cgroup2 is mounted that may be written; type: grep "
                  "cgroup2 /proc/mounts");
  }
  return *parent;
}

std::string cgroup_of(const Host& host, const std::string& vm) {
  return cgroup_parent(host) + "/" + name_for(vm);
}

}  // namespace vmlaunch::launcher::steps
