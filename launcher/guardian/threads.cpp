#include "launcher/guardian/threads.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <functional>
#include <set>
#include <string>
#include <system_error>

#include "base/affinity.hpp"
#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process_stat.hpp"
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

/// The threads of a process that the caller has not reaped: the number stays its own.
class Process {
 public:
  explicit Process(pid_t pid) : folder_("/proc/" + std::to_string(pid) + "/task") {}

  [[nodiscard]] bool has(pid_t thread) const {
    return ::access((folder_ + "/" + std::to_string(thread)).c_str(), F_OK) == 0;
  }

  /// "" for one that is gone.
  [[nodiscard]] std::string cgroup_of(pid_t thread) const {
    return base::Tree("").read(folder_ + "/" + std::to_string(thread) + "/cgroup").value_or("");
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

/// The kernel refuses a thread of another process: its cgroup is of another domain.
void move(pid_t thread, const std::string& group) {
  if (group.empty()) {
    return;
  }
  try {
    const base::UniqueFd threads = base::open_file(group + "/cgroup.threads", O_WRONLY);
    base::write_all(threads.get(), std::to_string(thread), group + "/cgroup.threads");
  } catch (const std::system_error& error) {
    refuse("thread " + std::to_string(thread) +
           " cannot have the CPUs that were isolated for it: " + error.what() + "; type: cat " +
           base::shell_quote(group + "/cgroup.type"));
  }
}

void require_affinity(pid_t thread, const CpuSet& wanted) {
  const CpuSet now = base::affinity_of(thread);
  if (now != wanted) {
    refuse("the kernel lets thread " + std::to_string(thread) + " run on the CPUs " +
           base::to_string(now) + " and not on " + base::to_string(wanted) +
           "; a cpuset limits it, type: cat /proc/" + std::to_string(::getpid()) + "/cpuset");
  }
}

void set_affinity(pid_t thread, const CpuSet& cpus) {
  if (const int error = base::set_affinity(thread, cpus); error != 0) {
    refuse("the kernel does not let thread " + std::to_string(thread) + " run on the CPUs " +
           base::to_string(cpus) + ": " + base::error_text(error));
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
                 bool realtime,
                 const std::string& group) {
  const config::Policy policy = realtime ? placement.policy : config::Policy::other;
  for (std::size_t i = 0; i < vcpus.size(); ++i) {
    change(process, vcpus[i], [&] {
      move(vcpus[i], group);
      set_affinity(vcpus[i], placement.vcpus[i]);
      set_policy(vcpus[i], policy, realtime ? placement.priority : 0);
    });
  }
}

/// One that a vCPU's thread has started is in that one's cgroup: KVM has such
/// (kvm-nx-lpage-recovery).
void move_out(const Process& process, pid_t thread, const std::string& group) {
  const std::string own = "/" + group.substr(group.rfind('/') + 1);
  if (!group.empty() && process.cgroup_of(thread).ends_with(own)) {
    move(thread, group.substr(0, group.rfind('/')));
  }
}

/// New ones inherit from those that were placed before; so a look that finds only known ones is the
/// last.
void place_others(const Process& process,
                  const CpuSet& cpus,
                  const std::set<pid_t>& vcpus,
                  const std::string& group) {
  constexpr int kMostLooks = 100;
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
      move_out(process, thread, group);
      const int error = base::set_affinity(thread, cpus);
      if (error != 0 && error != ESRCH) {
        refuse("the kernel does not let thread " + std::to_string(thread) + " run on the CPUs " +
               base::to_string(cpus) + ": " + base::error_text(error));
      }
    }
  }
}

/// The kernel's own threads for a QEMU: vhost's, KVM's. They have no power over where they run, and
/// some are bound to a CPU: what cannot be moved stays.
void place_kernel_threads(pid_t qemu, const CpuSet& cpus) {
  const base::Tree tree("");
  const std::string number = std::to_string(qemu);
  const auto owner = base::stat_of(tree, number);
  const auto parent = base::stat_of(tree, "2");
  if (!owner || !parent || !parent->is_kernel_thread()) {
    return;  // another PID namespace, that has none of them
  }
  const std::vector<std::string> children =
      base::split(tree.read("/proc/2/task/2/children").value_or(""), ' ');
  // In the order of their starts; those from before QEMU are none of its.
  for (auto child = children.rbegin(); child != children.rend(); ++child) {
    const auto stat = base::stat_of(tree, *child);
    if (stat && stat->started < owner->started) {
      return;
    }
    if (stat && (stat->name.ends_with("-" + number) || stat->name.ends_with("/" + number))) {
      static_cast<void>(base::set_affinity(std::atoi(child->c_str()), cpus));
    }
  }
}

}  // namespace

void place_threads(pid_t qemu,
                   const plan::Placement& placement,
                   const std::vector<pid_t>& vcpus,
                   bool realtime,
                   const std::string& group) {
  const std::set<pid_t> distinct(vcpus.begin(), vcpus.end());
  if (vcpus.size() != placement.vcpus.size() || distinct.size() != vcpus.size()) {
    refuse("QEMU names " + std::to_string(distinct.size()) + " threads for " +
           std::to_string(placement.vcpus.size()) + " vCPUs");
  }
  const Process process(qemu);
  place_vcpus(process, placement, vcpus, realtime, group);
  place_others(process, placement.rest, distinct, group);
  place_kernel_threads(qemu, placement.rest);
}

}  // namespace vmlaunch::launcher::guardian
