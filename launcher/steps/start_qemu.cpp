#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <memory>
#include <optional>
#include <vector>

#include "base/errors.hpp"
#include "base/process.hpp"
#include "base/process_stat.hpp"
#include "base/text.hpp"
#include "base/unique_fd.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using std::chrono::steady_clock;

/// 0: there is none.
std::uint64_t start_of(const Host& host, pid_t pid) {
  const auto stat = base::stat_of(host.tree(), std::to_string(pid));
  return stat ? stat->started : 0;
}

[[noreturn]] void refuse_to_go_on(const std::string& who) {
  throw Stuck("Cannot end QEMU: " + who +
              " lives on after SIGKILL: it is stuck in the kernel, and its devices stay with it; "
              "type: ps -eo pid,stat,wchan,args | grep ' D', and dmesg");
}

void end_process(const Host& host, pid_t pid, std::uint64_t start) {
  const base::UniqueFd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd && errno != ESRCH && errno != EINVAL) {  // EINVAL: it is a thread's by now
    base::throw_errno("look for QEMU, pid " + std::to_string(pid));
  }
  if (!pidfd || start_of(host, pid) != start) {
    return;  // its number may be somebody else's by now
  }
  static_cast<void>(base::send_signal(pidfd.get(), SIGKILL));
  if (!base::wait_readable(pidfd.get(), steady_clock::now() + host.deadlines().kill)) {
    refuse_to_go_on("pid " + std::to_string(pid));
  }
}

void empty_cgroup(Host& host, const std::string& path) {
  const auto populated = [&] {
    const auto events = host.tree().read(path + "/cgroup.events");
    return events && events->find("populated 1") != std::string::npos;
  };
  if (!populated()) {
    return;
  }
  host.write(path + "/cgroup.kill", "1");
  const auto until = steady_clock::now() + host.deadlines().kill;
  while (populated()) {
    if (steady_clock::now() > until) {
      refuse_to_go_on("a process in " + path);
    }
    const timespec pause{0, 5'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

/// Starts QEMU, and ends it.
class StartQemu final : public Change {
 public:
  explicit StartQemu(bool in_cgroup) : in_cgroup_(in_cgroup) {}

  const char* kind() const override { return "start-qemu"; }

  Step read(Fields& fields) const override { return start_qemu(fields.boolean("cgroup")); }
  void write(Json& json) const override { json["cgroup"] = in_cgroup_; }

  // It is asked for by itself.
  bool fits_plan_of(const std::string& /*vm*/) const override { return false; }

  std::string describe() const override { return "start QEMU"; }
  std::string describe_undo() const override { return "ended, before anything else is undone"; }
  bool is_per_qemu() const override { return true; }
  std::string object() const override { return "QEMU"; }

  Json capture(const Host& host, const Context& context) const override {
    return {{"cgroup", wire_text(in_cgroup_ ? cgroup_of(host, context.vm) : "")},
            {"pid", 0U},
            {"start", 0U}};
  }

  void apply(Host& host,
             const Context& context,
             const Json& /*found*/,
             const Note& note) const override {
    context.start([&](pid_t pid) {
      note({{"pid", static_cast<std::uint64_t>(pid)}, {"start", start_of(host, pid)}});
    });
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::string path = read_cgroup(fields, "cgroup");
    const auto pid = static_cast<pid_t>(fields.number("pid", 0, INT32_MAX));
    const std::uint64_t start = fields.number("start", 0, UINT64_MAX);
    if (pid != 0) {
      end_process(host, pid, start);
    }
    if (!path.empty()) {
      empty_cgroup(host, path);  // before its number was known, and whatever it has started
    }
  }

  bool ends_qemu() const override { return true; }

 private:
  bool in_cgroup_;  ///< QEMU is born in the cgroup that make_cgroup made
};

}  // namespace

Step start_qemu(bool in_cgroup) {
  return Step(std::make_shared<StartQemu>(in_cgroup));
}

}  // namespace vmlaunch::launcher::steps
