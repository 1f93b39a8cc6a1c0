#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launcher/steps/narrowing.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Has systemd keep what it runs off the guest's CPUs, on kernels without isolated partitions: the
/// CPUs that the units at the top may use. What the kernel runs there stays.
class ConfineHost final : public Narrowing {
 public:
  using Narrowing::Narrowing;

  const char* kind() const override { return "confine-host"; }
  Step read(Fields& fields) const override { return confine_host(read_cpus(fields, "cpus")); }

  std::string describe() const override {
    return "have systemd keep services and sessions off the CPUs " + base::to_string(cpus());
  }
  std::string object() const override { return "systemd's slices"; }
  bool is_free_of_qemu() const override { return true; }

 protected:
  Places look(const Host& host) const override {
    Places places =
        host.allowed_cpus({"init.scope", "machine.slice", "system.slice", "user.slice"});
    for (auto& [unit, allowed] : places) {
      if (allowed.empty()) {
        allowed = online_cpus(host);  // no limit
      }
    }
    return places;
  }

  std::vector<int> put(
      Host& host, const std::vector<std::pair<std::string, base::CpuSet>>& places) const override {
    for (const auto& [unit, allowed] : places) {
      host.allow_cpus(unit, allowed == online_cpus(host) ? base::CpuSet() : allowed);
    }
    return std::vector<int>(places.size());
  }
};

}  // namespace

Step confine_host(base::CpuSet cpus) {
  return Step(std::make_shared<ConfineHost>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
