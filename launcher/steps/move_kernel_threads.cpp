#include <linux/capability.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/process_stat.hpp"
#include "base/text.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr std::size_t kMostThreads = 65536;

/// A thread of the kernel's, and where it may run.
struct Moved {
  pid_t pid = 0;
  std::uint64_t started = 0;  ///< its number may be another's later
  base::CpuSet before;
};

/// Moves the kernel's threads that may run anywhere (rcuo, writeback, …) off CPUs.
class MoveKernelThreads final : public Change {
 public:
  explicit MoveKernelThreads(base::CpuSet cpus) : cpus_(std::move(cpus)) {}

  const char* kind() const override { return "move-kernel-threads"; }
  int capability() const override { return CAP_SYS_NICE; }

  Step read(Fields& fields) const override {
    return move_kernel_threads(read_cpus(fields, "cpus"));
  }
  void write(Json& json) const override { json["cpus"] = base::to_string(cpus_); }

  std::string describe() const override {
    return "move the kernel's own threads off the CPUs " + base::to_string(cpus_) +
           ", but for those that are each CPU's own";
  }
  std::string describe_undo() const override { return "they may run there again"; }
  std::string object() const override { return "kernel threads"; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    Json threads = Json::array();
    const std::string children = host.tree().read("/proc/2/task/2/children").value_or("");
    for (const std::string& child : base::split(children, ' ')) {
      const auto stat = base::stat_of(host.tree(), child);
      const auto pid = base::parse_number<unsigned>(child);
      if (!pid || !stat || !stat->is_kernel_thread() || stat->is_bound()) {
        continue;
      }
      const base::CpuSet now = host.affinity_of(static_cast<pid_t>(*pid));
      if (!base::common(now, cpus_).empty() && !base::without(now, cpus_).empty()) {
        threads.push_back(
            {{"pid", *pid}, {"started", stat->started}, {"before", base::to_string(now)}});
      }
    }
    return {{"threads", threads}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& found,
             const Note& /*note*/) const override {
    std::vector<std::pair<pid_t, base::CpuSet>> wanted;
    for (const Moved& thread : read_threads(found)) {
      if (lives(host, thread)) {
        wanted.emplace_back(thread.pid, base::without(thread.before, cpus_));
      }
    }
    static_cast<void>(host.set_affinity_each(wanted));  // some may not be moved after all
  }

  void undo(Host& host, const Json& found) const override {
    std::vector<std::pair<pid_t, base::CpuSet>> wanted;
    for (const Moved& thread : read_threads(found)) {
      if (!lives(host, thread)) {
        continue;
      }
      base::CpuSet cpus = host.affinity_of(thread.pid);
      cpus.merge(base::common(thread.before, cpus_));
      wanted.emplace_back(thread.pid, std::move(cpus));
    }
    static_cast<void>(host.set_affinity_each(wanted));
  }

 private:
  static bool lives(const Host& host, const Moved& thread) {
    const auto stat = base::stat_of(host.tree(), std::to_string(thread.pid));
    return stat && stat->is_kernel_thread() && stat->started == thread.started;
  }

  static std::vector<Moved> read_threads(const Json& found) {
    Fields fields(found);
    std::vector<Moved> threads;
    for (const Json& one : fields.array("threads", kMostThreads)) {
      Fields thread(one);
      threads.push_back({static_cast<pid_t>(thread.number("pid", 1, INT32_MAX)),
                         thread.number("started", 0, UINT64_MAX),
                         read_cpus(thread, "before")});
    }
    return threads;
  }

  base::CpuSet cpus_;
};

}  // namespace

Step move_kernel_threads(base::CpuSet cpus) {
  return Step(std::make_shared<MoveKernelThreads>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
