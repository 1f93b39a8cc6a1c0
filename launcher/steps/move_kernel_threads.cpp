#include <linux/capability.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/process_stat.hpp"
#include "base/text.hpp"
#include "launcher/steps/narrowing.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// Moves the kernel's threads that may run anywhere (rcuo, writeback, …) off CPUs. Each by its
/// number and start, since a number may be another's later: "17 of 4711".
class MoveKernelThreads final : public Narrowing {
 public:
  using Narrowing::Narrowing;

  const char* kind() const override { return "move-kernel-threads"; }
  std::vector<int> capabilities() const override { return {CAP_SYS_NICE}; }

  Step read(Fields& fields) const override {
    return move_kernel_threads(read_cpus(fields, "cpus"));
  }

  std::string describe() const override {
    return "move the kernel's own threads off the CPUs " + base::to_string(cpus()) +
           ", but for those that are each CPU's own";
  }
  std::string object() const override { return "kernel threads"; }
  bool is_free_of_qemu() const override { return true; }

 protected:
  Places look(const Host& host) const override {
    Places places;
    const std::string children = host.tree().read("/proc/2/task/2/children").value_or("");
    for (const std::string& child : base::split(children, ' ')) {
      const auto stat = base::stat_of(host.tree(), child);
      if (stat && stat->is_kernel_thread() && !stat->is_bound()) {
        if (const auto now = allowed(host, child)) {
          places.emplace(child + kOf + std::to_string(stat->started), *now);
        }
      }
    }
    return places;
  }

  std::vector<int> put(
      Host& host, const std::vector<std::pair<std::string, base::CpuSet>>& places) const override {
    std::vector<std::pair<pid_t, base::CpuSet>> wanted;
    wanted.reserve(places.size());
    for (const auto& [name, place] : places) {
      const auto number = base::parse_number<unsigned>(name.substr(0, name.find(' ')));
      wanted.emplace_back(static_cast<pid_t>(number.value_or(0)), place);
    }
    return host.set_affinity_each(wanted);
  }

  std::string title(const std::string& name) const override {
    return "the kernel's thread " + name.substr(0, name.find(' '));
  }

 private:
  static constexpr const char* kOf = " of ";

  /// With those that are offline, which sched_getaffinity(2) leaves out.
  static std::optional<base::CpuSet> allowed(const Host& host, const std::string& thread) {
    constexpr std::string_view kName = "\nCpus_allowed_list:\t";
    const std::string status = host.tree().read("/proc/" + thread + "/status").value_or("");
    const std::size_t begin = status.find(kName);
    if (begin == std::string::npos) {
      return std::nullopt;
    }
    const std::size_t list = begin + kName.size();
    const auto cpus = base::parse_cpu_set(status.substr(list, status.find('\n', list) - list));
    return cpus && !cpus->empty() ? cpus : std::nullopt;
  }
};

}  // namespace

Step move_kernel_threads(base::CpuSet cpus) {
  return Step(std::make_shared<MoveKernelThreads>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
