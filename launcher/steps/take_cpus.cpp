#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Keeps CPUs from other VMs. Changes nothing: the names that it reserves are all.
class TakeCpus final : public Change {
 public:
  explicit TakeCpus(base::CpuSet cpus) : cpus_(std::move(cpus)) {}

  const char* kind() const override { return "take-cpus"; }
  Step read(Fields& fields) const override { return take_cpus(read_cpus(fields, "cpus")); }
  void write(Json& json) const override { json["cpus"] = base::to_string(cpus_); }

  std::string describe() const override {
    return "keep the CPUs " + base::to_string(cpus_) + " from other VMs";
  }
  std::string describe_undo() const override { return "they may have them again"; }
  std::string object() const override { return "CPUs " + base::to_string(cpus_); }
  bool is_free_of_qemu() const override { return true; }

  std::vector<std::string> reserves() const override {
    std::vector<std::string> names;
    for (const unsigned cpu : cpus_) {
      names.push_back(std::string(kCpuLock) + std::to_string(cpu));
    }
    return names;
  }

  Json capture(const Host& /*host*/, const Context& /*context*/) const override {
    return Json::object();
  }
  void apply(Host& /*host*/,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {}
  void undo(Host& /*host*/, const Json& /*found*/) const override {}

 private:
  base::CpuSet cpus_;
};

}  // namespace

Step take_cpus(base::CpuSet cpus) {
  return Step(std::make_shared<TakeCpus>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
