#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "base/text.hpp"
#include "launcher/steps/narrowing.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// What was asked of it, where the kernel tells that apart from what is left of it by isolated
/// CPUs (Linux 6.7, kernel/workqueue.c).
constexpr const char* kRequested = "/sys/devices/virtual/workqueue/cpumask_requested";
constexpr const char* kQueues = "/sys/devices/virtual/workqueue/cpumask";
constexpr const char* kWriteback = "/sys/devices/virtual/workqueue/writeback/cpumask";

/// A list, where the others are masks: who is watched for doing nothing else.
constexpr const char* kWatchdog = "/proc/sys/kernel/watchdog_cpumask";

/// Keeps the work that the kernel does on any CPU, and its watchdog, off the guest's.
class MoveWorkQueues final : public Narrowing {
 public:
  using Narrowing::Narrowing;

  const char* kind() const override { return "move-work-queues"; }
  Step read(Fields& fields) const override { return move_work_queues(read_cpus(fields, "cpus")); }

  std::string describe() const override {
    return "keep the kernel's work queues and watchdog off the CPUs " + base::to_string(cpus());
  }
  std::string object() const override { return "work queues"; }
  bool is_free_of_qemu() const override { return true; }

 protected:
  Places look(const Host& host) const override {
    Places places;
    for (const std::string path : {kQueues, kWriteback, kWatchdog}) {
      const std::string shown =
          path == kQueues && host.tree().exists(kRequested) ? kRequested : path;
      const std::string text = host.tree().read(shown).value_or("");
      const auto now = path == kWatchdog ? base::parse_cpu_set(text) : base::parse_cpu_mask(text);
      if (now && !now->empty()) {
        places.emplace(path, *now);
      }
    }
    return places;
  }

  std::vector<int> put(
      Host& host, const std::vector<std::pair<std::string, base::CpuSet>>& places) const override {
    std::vector<std::pair<std::string, std::string>> values;
    values.reserve(places.size());
    for (const auto& [path, place] : places) {
      values.emplace_back(path, path == kWatchdog ? base::to_string(place) : base::to_mask(place));
    }
    return host.write_each(values);
  }

  void tell_of_kept(const Context& context,
                    const std::vector<std::pair<std::string, int>>& kept) const override {
    for (const auto& [path, error] : kept) {
      context.waiting(path + " stays as it is: " + base::error_text(error));
    }
  }
};

}  // namespace

Step move_work_queues(base::CpuSet cpus) {
  return Step(std::make_shared<MoveWorkQueues>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
