#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

base::CpuSet read_cpus(Fields& fields, const char* key) {
  const auto cpus = base::parse_cpu_set(fields.text(key));
  if (!cpus || cpus->empty()) {
    throw FormError("not a set of CPUs");
  }
  return *cpus;
}

base::CpuSet online_cpus(const Host& host) {
  return base::parse_cpu_set(host.tree().read("/sys/devices/system/cpu/online").value_or("0"))
      .value_or(base::CpuSet{0});
}

}  // namespace vmlaunch::launcher::steps
