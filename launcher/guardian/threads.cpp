#include "launcher/guardian/threads.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <string>

#include "base/errors.hpp"
#include "base/text.hpp"
#include "base/tree.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/survey/realtime.hpp"

namespace vmlaunch::launcher::guardian {

namespace {

using base::CpuSet;

[[noreturn]] void refuse(const std::string& what) {
  throw Failure(ExitCode::qemu_did_not_start, "Cannot place QEMU's threads: " + what);
}

/// A set of CPUs in the kernel's form: as long as there may be numbers.
class Mask {
 public:
  Mask() : set_(CPU_ALLOC(kMost)) { CPU_ZERO_S(kSize, set_); }
  explicit Mask(const CpuSet& cpus) : Mask() {
    for (const unsigned cpu : cpus) {
      CPU_SET_S(cpu, kSize, set_);
    }
  }
  Mask(const Mask&) = delete;
  Mask& operator=(const Mask&) = delete;
  ~Mask() { CPU_FREE(set_); }

  [[nodiscard]] int give(pid_t thread) const { return ::sched_setaffinity(thread, kSize, set_); }

  [[nodiscard]] static CpuSet of(pid_t thread) {
    const Mask mask;
    CpuSet cpus;
    if (::sched_getaffinity(thread, kSize, mask.set_) == 0) {
      for (unsigned cpu = 0; cpu < kMost; ++cpu) {
        if (CPU_ISSET_S(cpu, kSize, mask.set_)) {
          cpus.insert(cpu);
        }
      }
    }
    return cpus;
  }

 private:
  static constexpr unsigned kMost = 8192;  // as parse_cpu_set's
  static constexpr std::size_t kSize = CPU_ALLOC_SIZE(kMost);

  cpu_set_t* set_;
};

/// The threads of a process that the caller has not reaped: the number stays its own.
class Process {
 public:
  explicit Process(pid_t pid) : folder_("/proc/" + std::to_string(pid) + "/task") {}

  [[nodiscard]] bool has(pid_t thread) const {
    return ::access((folder_ + "/" + std::to_string(thread)).c_str(), F_OK) == 0;
  }

  [[nodiscard]] std::vector<pid_t> threads() const {
    std::vector<pid_t> all;
    for (const std::string& name : base::Tree("").list(folder_)) {
      if (const auto number = base::parse_number<unsigned>(name)) {
        all.push_back(static_cast<pid_t>(*number));
      }
    }
    return all;
  }

 private:
  std::string folder_;
};

/// A thread may end at any time, and its number go to a stranger: so it is looked for before and
/// after.
void change(const Process& process, pid_t thread, const std::function<void()>& change) {
  if (!process.has(thread)) {
    refuse("thread " + std::to_string(thread) + " is none of QEMU's");
  }
  change();
  if (!process.has(thread)) {
    refuse("thread " + std::to_string(thread) + " ended meanwhile");
  }
}

void require_affinity(pid_t thread, const CpuSet& wanted) {
  const CpuSet now = Mask::of(thread);
  if (now != wanted) {
    refuse("the kernel lets thread " + std::to_string(thread) + " run on the CPUs " +
           base::to_string(now) + " and not on " + base::to_string(wanted) +
           "; a cpuset limits it, type: cat /proc/" + std::to_string(::getpid()) + "/cpuset");
  }
}

void set_affinity(pid_t thread, const CpuSet& cpus) {
  if (Mask(cpus).give(thread) != 0) {
    refuse("the kernel does not let thread " + std::to_string(thread) + " run on the CPUs " +
           base::to_string(cpus) + ": " + base::error_text(errno));
  }
  require_affinity(thread, cpus);
}

/// Why the kernel says EPERM (kernel/sched/core.c, __sched_setscheduler).
std::string cause_of_refusal(unsigned priority) {
  const survey::RealtimeLimits limits = survey::look_at_realtime(base::Tree(""));
  if (!limits.cgroup.empty()) {
    return "the cgroup " + limits.cgroup +
           " has no time for real-time threads "
           "(CONFIG_RT_GROUP_SCHED); type: cat " +
           base::shell_quote(limits.cgroup + "/cpu.rt_runtime_us");
  }
  if (::geteuid() != 0) {
    return "the limit of real-time priorities is " + std::to_string(limits.highest) +
           " (RLIMIT_RTPRIO), and " + std::to_string(priority) +
           " is asked for; type: vmlaunch setup FILE, or: sudo vmlaunch …";
  }
  return "this root lacks CAP_SYS_NICE, or a cgroup has no time for real-time threads "
         "(CONFIG_RT_GROUP_SCHED); type: capsh --print, and: cat /proc/self/cgroup";
}

int number_of(config::Policy policy) {
  switch (policy) {
    case config::Policy::other:
      return SCHED_OTHER;
    case config::Policy::round_robin:
      return SCHED_RR;
    case config::Policy::fifo:
      return SCHED_FIFO;
  }
  return SCHED_OTHER;
}

/// What it starts does not inherit a real-time policy.
void set_policy(pid_t thread, config::Policy policy, unsigned priority) {
  const int wanted =
      number_of(policy) | (policy == config::Policy::other ? 0 : SCHED_RESET_ON_FORK);
  const sched_param parameters{static_cast<int>(priority)};
  const int now = ::sched_getscheduler(thread);
  if (now == wanted && policy == config::Policy::other) {
    return;
  }
  if (::sched_setscheduler(thread, wanted, &parameters) != 0) {
    const int error = errno;
    refuse("the kernel does not schedule thread " + std::to_string(thread) + " as " +
           to_string(policy) + " with priority " + std::to_string(priority) + ": " +
           base::error_text(error) + (error == EPERM ? ": " + cause_of_refusal(priority) : ""));
  }
  sched_param kept{};
  if (::sched_getscheduler(thread) != wanted || ::sched_getparam(thread, &kept) != 0 ||
      kept.sched_priority != parameters.sched_priority) {
    refuse("the kernel did not keep the policy of thread " + std::to_string(thread));
  }
}

void place_vcpus(const Process& process,
                 const plan::Placement& placement,
                 const std::vector<pid_t>& vcpus,
                 bool realtime) {
  const config::Policy policy = realtime ? placement.policy : config::Policy::other;
  for (std::size_t i = 0; i < vcpus.size(); ++i) {
    change(process, vcpus[i], [&] {
      set_affinity(vcpus[i], placement.vcpus[i]);
      set_policy(vcpus[i], policy, realtime ? placement.priority : 0);
    });
  }
}

/// New ones inherit from those that were placed before; so a look that finds only known ones is the
/// last.
void place_others(const Process& process, const CpuSet& cpus, const std::set<pid_t>& vcpus) {
  constexpr int kMostLooks = 100;
  const Mask mask(cpus);
  std::set<pid_t> known = vcpus;
  bool found_new = true;
  for (int look = 0; found_new; ++look) {
    if (look == kMostLooks) {
      refuse("QEMU makes threads faster than they can be placed");
    }
    found_new = false;
    for (const pid_t thread : process.threads()) {
      if (!known.insert(thread).second) {
        continue;
      }
      found_new = true;
      if (mask.give(thread) != 0 && errno != ESRCH) {
        refuse("the kernel does not let thread " + std::to_string(thread) + " run on the CPUs " +
               base::to_string(cpus) + ": " + base::error_text(errno));
      }
    }
  }
}

/// What /proc/PID/stat says that is needed here (proc(5)).
struct Stat {
  std::string name;
  unsigned long flags = 0;
  unsigned long long started = 0;  ///< in ticks since boot
};

std::optional<Stat> stat_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const std::size_t open = line.find('(');
  const std::size_t close = line.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close + 2 > line.size()) {
    return std::nullopt;
  }
  constexpr std::size_t kFlags = 6;  // fields after the name
  constexpr std::size_t kStarted = 19;
  const std::vector<std::string> fields = base::split(line.substr(close + 2), ' ');
  if (fields.size() <= kStarted) {
    return std::nullopt;
  }
  return Stat{line.substr(open + 1, close - open - 1),
              base::parse_number<unsigned long>(fields[kFlags]).value_or(0),
              base::parse_number<unsigned long long>(fields[kStarted]).value_or(0)};
}

/// The kernel's own threads for a QEMU: vhost's, KVM's. They have no power over where they run, and
/// some are bound to a CPU: what cannot be moved stays.
void place_kernel_threads(pid_t qemu, const CpuSet& cpus) {
  constexpr unsigned long kKernelThread = 0x00200000;  // PF_KTHREAD, linux/sched.h
  constexpr pid_t kParent = 2;                         // of all of them
  const std::string number = std::to_string(qemu);
  const std::optional<Stat> owner = stat_of(qemu);
  std::ifstream file("/proc/2/task/2/children");
  std::string line;
  std::getline(file, line);
  std::vector<std::string> children = base::split(line, ' ');
  const std::optional<Stat> parent = stat_of(kParent);
  if (!owner || !parent || (parent->flags & kKernelThread) == 0) {
    return;  // another PID namespace, that has none of them
  }
  const Mask mask(cpus);
  // In the order of their starts; those from before QEMU are none of its.
  for (auto child = children.rbegin(); child != children.rend(); ++child) {
    const auto pid = base::parse_number<unsigned>(*child);
    const auto stat = pid ? stat_of(static_cast<pid_t>(*pid)) : std::nullopt;
    if (stat && stat->started < owner->started) {
      return;
    }
    const bool is_ours = stat && (stat->flags & kKernelThread) != 0 &&
                         (stat->name.ends_with("-" + number) || stat->name.ends_with("/" + number));
    if (is_ours) {
      static_cast<void>(mask.give(static_cast<pid_t>(*pid)));
    }
  }
}

}  // namespace

void place_threads(pid_t qemu,
                   const plan::Placement& placement,
                   const std::vector<pid_t>& vcpus,
                   bool realtime) {
  const std::set<pid_t> distinct(vcpus.begin(), vcpus.end());
  if (vcpus.size() != placement.vcpus.size() || distinct.size() != vcpus.size()) {
    refuse("QEMU names " + std::to_string(distinct.size()) + " threads for " +
           std::to_string(placement.vcpus.size()) + " vCPUs");
  }
  const Process process(qemu);
  place_vcpus(process, placement, vcpus, realtime);
  place_others(process, placement.rest, distinct);
  place_kernel_threads(qemu, placement.rest);
}

}  // namespace vmlaunch::launcher::guardian
