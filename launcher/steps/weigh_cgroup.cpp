#include <linux/capability.h>

#include <memory>
#include <string>
#include <utility>

#include "launcher/config/vm_spec.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Gives the VM's cgroup its share of the CPUs' time.
class WeighCgroup final : public Change {
 public:
  WeighCgroup(std::string vm, unsigned weight) : vm_(std::move(vm)), weight_(weight) {}

  const char* kind() const override { return "weigh-cgroup"; }
  std::vector<int> capabilities() const override { return {CAP_DAC_OVERRIDE}; }

  Step read(Fields& fields) const override {
    std::string vm = fields.text("vm");
    if (!config::is_vm_name(vm)) {
      throw FormError("not a VM's name");
    }
    return weigh_cgroup(std::move(vm),
                        static_cast<unsigned>(fields.number("weight", 1, kMostWeight)));
  }
  void write(Json& json) const override { json.update({{"vm", vm_}, {"weight", weight_}}); }

  bool fits_plan_of(const std::string& vm) const override { return vm == vm_; }

  std::string describe() const override {
    return "give the VM's cgroup a CPU weight of " + std::to_string(weight_) +
           ", where others have 100";
  }
  std::string describe_undo() const override { return "gone with the cgroup"; }
  std::string object() const override { return "cgroup"; }

  Json capture(const Host& /*host*/, const Context& /*context*/) const override {
    return Json::object();
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    host.write(cgroup_of(host, vm_) + "/cpu.weight", std::to_string(weight_));
  }

  void undo(Host& /*host*/, const Json& /*found*/) const override {}

 private:
  std::string vm_;
  unsigned weight_;
};

}  // namespace

Step weigh_cgroup(std::string vm, unsigned weight) {
  return Step(std::make_shared<WeighCgroup>(std::move(vm), weight));
}

}  // namespace vmlaunch::launcher::steps
