#include "launcher/guardian/threads.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <set>
#include <utility>

#include "base/affinity.hpp"
#include "base/errors.hpp"
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

std::string name_of(pid_t thread) {
  return "thread " + std::to_string(thread);
}

/// The threads of a process that the caller has not reaped: the number stays its own.
class Process {
 public:
  explicit Process(pid_t pid) : folder_("/proc/" + std::to_string(pid) + "/task") {}

  [[nodiscard]] bool has(pid_t thread) const {
    return ::access(path_of(thread).c_str(), F_OK) == 0;
  }

  /// "/a/b" below the root of cgroup2; "" for one that is gone.
  [[nodiscard]] std::string cgroup_of(pid_t thread) const {
    const std::string text = base::Tree("").read(path_of(thread) + "/cgroup").value_or("");
    const std::size_t begin = text.find("0::");
    return begin == std::string::npos ? ""
                                      : text.substr(begin + 3, text.find('\n', begin) - begin - 3);
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
  [[nodiscard]] std::string path_of(pid_t thread) const {
    return folder_ + "/" + std::to_string(thread);
  }

  std::string folder_;
};

/// A thread may end at any time, and its number go to a stranger: so it is looked for before and
/// after each call.
void require_own(const Process& process, pid_t thread) {
  if (!process.has(thread)) {
    refuse(name_of(thread) + " is none of QEMU's");
  }
}

/// The kernel refuses a thread of another process: its cgroup is of another domain.
void move(steps::Host& host,
          const Process& process,
          const std::vector<pid_t>& threads,
          const std::string& group) {
  std::vector<std::pair<std::string, std::string>> values;
  values.reserve(threads.size());
  for (const pid_t thread : threads) {
    require_own(process, thread);
    values.emplace_back(group + "/cgroup.threads", std::to_string(thread));
  }
  const std::vector<int> errors = host.write_each(values);
  for (std::size_t i = 0; i < threads.size(); ++i) {
    require_own(process, threads[i]);
    if (errors[i] != 0) {
      refuse(name_of(threads[i]) +
             " cannot have its place among the VM's cgroups: " + base::error_text(errors[i]) +
             "; type: cat " + base::shell_quote(group + "/cgroup.type"));
    }
  }
}

/// Whether it is in a cgroup of that name.
bool is_in(const Process& process, pid_t thread, const std::string& group) {
  return process.cgroup_of(thread).ends_with("/" + group.substr(group.rfind('/') + 1));
}

/// An error of the kernel's, with what it may mean.
std::string why(const Process& process, pid_t thread, int error) {
  if (error == EPERM) {
    return base::error_text(error) +
           (::geteuid() == 0 ? ": this root lacks CAP_SYS_NICE; type: grep CapBnd /proc/self/status"
                             : "");
  }
  return base::error_text(error) + ": a cpuset limits it; type: cat /sys/fs/cgroup" +
         base::shell_quote(process.cgroup_of(thread)) + "/cpuset.cpus.effective";
}

void set_affinity(const Process& process, pid_t thread, const CpuSet& cpus) {
  int error = base::set_affinity(thread, cpus);
  // A cpuset may leave a part of them.
  const CpuSet now = base::affinity_of(thread);
  if (error == 0 && now != cpus && !now.empty()) {
    error = EINVAL;
  }
  if (error != 0 && error != ESRCH) {
    refuse("the kernel does not let " + name_of(thread) + " run on the CPUs " +
           base::to_string(cpus) + ": " + why(process, thread, error));
  }
}

/// Why the kernel says EPERM (kernel/sched/syscalls.c, user_check_sched_setscheduler).
std::string cause_of_refusal(const Process& process, pid_t thread, unsigned priority) {
  const bool is_root = ::geteuid() == 0;
  std::string known = survey::obstacle(survey::look_at_realtime(base::Tree("")), priority, is_root);
  if (!known.empty()) {
    return known;
  }
  return "its cgroup " + process.cgroup_of(thread) +
         " has no time for real-time threads (CONFIG_RT_GROUP_SCHED)" +
         (is_root ? ", or this root lacks CAP_SYS_NICE" : "") +
         "; type: zgrep RT_GROUP_SCHED /proc/config.gz /boot/config-$(uname -r)";
}

bool is_realtime(int policy) {
  const int plain = policy & ~SCHED_RESET_ON_FORK;
  return plain == SCHED_RR || plain == SCHED_FIFO;
}

/// What it starts does not inherit the policy.
void hurry(const Process& process, pid_t thread, config::Policy policy, unsigned priority) {
  const int wanted = (policy == config::Policy::fifo ? SCHED_FIFO : SCHED_RR) | SCHED_RESET_ON_FORK;
  const sched_param parameters{static_cast<int>(priority)};
  if (::sched_setscheduler(thread, wanted, &parameters) != 0) {
    const int error = errno;
    refuse("the kernel does not schedule " + name_of(thread) + " as " + to_string(policy) +
           " with priority " + std::to_string(priority) + ": " + base::error_text(error) +
           (error == EPERM ? ": " + cause_of_refusal(process, thread, priority) : ""));
  }
  sched_param kept{};
  if (::sched_getscheduler(thread) != wanted || ::sched_getparam(thread, &kept) != 0 ||
      kept.sched_priority != parameters.sched_priority) {
    refuse("the kernel did not keep the policy of " + name_of(thread));
  }
}

/// The flag stays: to clear it takes CAP_SYS_NICE (sched(7)).
void calm_down(pid_t thread) {
  const sched_param none{};
  if (is_realtime(::sched_getscheduler(thread))) {
    static_cast<void>(::sched_setscheduler(thread, SCHED_OTHER | SCHED_RESET_ON_FORK, &none));
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

void Threads::place_vcpus(pid_t qemu, bool realtime) const {
  const Process process(qemu);
  const bool are_there = group_.empty() || std::all_of(vcpus_.begin(), vcpus_.end(), [&](pid_t it) {
                           return is_in(process, it, group_);
                         });
  if (!are_there) {
    move(host_, process, vcpus_, group_);
  }
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    const pid_t thread = vcpus_[i];
    require_own(process, thread);
    set_affinity(process, thread, placement_.vcpus[i]);
    require_own(process, thread);
    if (realtime) {
      hurry(process, thread, placement_.policy, placement_.priority);
      require_own(process, thread);
    }
  }
}

/// New ones inherit from those that were placed before; so a look that finds only known ones is the
/// last. One that a vCPU's thread has started is in that one's cgroup: KVM has such
/// (kvm-nx-lpage-recovery).
void Threads::place_others(pid_t qemu) const {
  constexpr int kMostLooks = 100;
  const Process process(qemu);
  std::set<pid_t> known(vcpus_.begin(), vcpus_.end());
  bool found_new = true;
  for (int look = 0; found_new; ++look) {
    if (look == kMostLooks) {
      refuse("QEMU makes threads faster than they can be placed");
    }
    found_new = false;
    for (const pid_t thread : process.threads()) {
      if (!known.insert(thread).second || !process.has(thread)) {
        continue;
      }
      found_new = true;
      calm_down(thread);
      if (!group_.empty() && is_in(process, thread, group_)) {
        move(host_, process, {thread}, group_.substr(0, group_.rfind('/')));
      }
      if (process.has(thread)) {
        set_affinity(process, thread, placement_.rest);
      }
    }
  }
}

void Threads::place(pid_t qemu, const std::vector<pid_t>& vcpus, bool realtime) {
  const std::set<pid_t> distinct(vcpus.begin(), vcpus.end());
  if (vcpus.size() != placement_.vcpus.size() || distinct.size() != vcpus.size()) {
    refuse("QEMU names " + std::to_string(distinct.size()) + " threads for " +
           std::to_string(placement_.vcpus.size()) + " vCPUs");
  }
  if (!vcpus_.empty() && vcpus != vcpus_) {
    refuse("its vCPUs had other threads a moment ago");
  }
  const Process process(qemu);
  for (const pid_t thread : vcpus) {
    require_own(process, thread);
  }
  vcpus_ = vcpus;
  if (!realtime) {
    calm(qemu);
  }
  place_vcpus(qemu, realtime);
  place_others(qemu);
  place_kernel_threads(qemu, placement_.rest);
}

void Threads::calm(pid_t qemu) const {
  const Process process(qemu);
  for (const pid_t thread : vcpus_) {
    if (process.has(thread)) {
      calm_down(thread);
    }
  }
}

}  // namespace vmlaunch::launcher::guardian
