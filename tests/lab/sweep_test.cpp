#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "base/errors.hpp"
#include "tests/lab/device_vm.hpp"
#include "tests/lab/host_snapshot.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

/// A start with every kind of step takes a minute under strace, in an emulated machine on a busy
/// host.
constexpr Seconds kTracedRun{150};

enum class Victim { supervisor, guardian, both, group };

const char* name_of(Victim victim) {
  switch (victim) {
    case Victim::supervisor:
      return "the supervisor";
    case Victim::guardian:
      return "the guardian";
    case Victim::both:
      return "both";
    case Victim::group:
      return "the supervisor's process group";
  }
  return "";
}

char state_of(pid_t pid) {
  const std::string stat = contents("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t end = stat.rfind(')');
  return end == std::string::npos || end + 2 >= stat.size() ? '-' : stat[end + 2];
}

/// Who starts the swept runs.
enum class Starter { root, sudo };

/// Writes what the run needs, and gives it without strace.
Launch start(const Folder& folder, Json config, Starter starter) {
  if (starter == Starter::root) {
    return run_of(folder, config);
  }
  // QEMU gets that person's uid, whose config may not choose its arguments.
  constexpr uid_t kPerson = 12345;
  config["qemu"] = {{"binary", folder.copy(PROBE_PROGRAM, "probe")}};
  Launch launch = run_of(folder, config);
  base::check(::chown(folder.file("vm.json").c_str(), kPerson, kPerson), "give the config");
  launch.environment = {"SUDO_UID=" + std::to_string(kPerson),
                        "SUDO_GID=" + std::to_string(kPerson)};
  return launch;
}

/// One run of the probe with the NIC below strace, which is told to stop as soon as it runs.
class TracedRun {
 public:
  TracedRun(Launch run, const std::vector<std::string>& options)
      : trace_(folder_.file("trace")), program_(below_strace(std::move(run), options)) {}

  /// Looks after the run for a moment; false once it has ended.
  bool go_on() {
    find();
    if (!stopping_ && program_.says("] running", Seconds(0.02))) {
      stopping_ = true;
      ::kill(supervisor_, SIGTERM);
    }
    return !program_.wait(Seconds(0.02)).has_value();
  }

  /// How often `call` was made, by whoever was traced.
  [[nodiscard]] int calls(const std::string& call) const {
    const std::string trace = contents(trace_);
    int count = 0;
    for (std::size_t at = trace.find(call + "("); at != std::string::npos;
         at = trace.find(call + "(", at + 1)) {
      ++count;
    }
    return count;
  }

  /// The end of strace, which ends like the supervisor.
  int exit_code(Seconds limit = kPatience) { return program_.exit_code(limit); }

  [[nodiscard]] pid_t supervisor() const { return supervisor_; }
  [[nodiscard]] pid_t guardian() const { return guardian_; }
  [[nodiscard]] bool guardian_lives() const { return guardian_ > 0 && lives(guardian_); }
  [[nodiscard]] const std::string& output() const { return program_.output(); }

 private:
  Launch below_strace(Launch run, const std::vector<std::string>& options) const {
    std::vector<std::string> strace = {"/usr/bin/strace", "-qq", "-o", trace_};
    strace.insert(strace.end(), options.begin(), options.end());
    strace.emplace_back("setsid");
    run.arguments.insert(run.arguments.begin(), strace.begin(), strace.end());
    return run;
  }

  /// strace has the supervisor as a child, and for a moment others; its child is the guardian.
  void find() {
    supervisor_ = supervisor_ < 0 ? child_named("vmlaunch", program_.pid()) : supervisor_;
    if (supervisor_ > 0 && guardian_ < 0) {
      guardian_ = child_named("vmlaunch-guard", supervisor_);
    }
  }

  static pid_t child_named(const std::string& name, pid_t parent) {
    for (const pid_t child : children_of(parent)) {
      if (contents("/proc/" + std::to_string(child) + "/comm") == name) {
        return child;
      }
    }
    return -1;
  }

  Folder folder_;
  std::string trace_;
  Program program_;
  pid_t supervisor_ = -1;
  pid_t guardian_ = -1;
  bool stopping_ = false;
};

/// A run that is held at the guardian's `write`-th entry in its journal, after the entry is on disk
/// and before anything follows from it.
class HeldRun {
 public:
  HeldRun(Launch run, int write)
      : run_(std::move(run),
             {"-f",
              "-e",
              "trace=fdatasync",
              "-e",
              "inject=fdatasync:signal=SIGSTOP:when=" + std::to_string(write)}),
        write_(write) {}

  /// True when it stopped at the entry, false when it ended before it came to that.
  bool wait_until_held() {
    bool ended = false;
    return eventually(
               [&] {
                 ended = !run_.go_on();
                 return ended || is_held();
               },
               kTracedRun) &&
           !ended;
  }

  void kill(Victim victim) {
    const pid_t supervisor = run_.supervisor();
    const pid_t guardian = run_.guardian();
    if (victim == Victim::guardian) {
      ::kill(guardian, SIGKILL);
    } else {
      // First it is held too, so that it sees nothing of the other's death.
      ::kill(supervisor, SIGSTOP);
      if (victim == Victim::both) {
        ::kill(guardian, SIGKILL);
      }
      ::kill(victim == Victim::group ? -::getpgid(supervisor) : supervisor, SIGKILL);
    }
    ::kill(guardian, SIGCONT);
    static_cast<void>(run_.exit_code());
  }

  [[nodiscard]] TracedRun& run() { return run_; }

 private:
  /// strace stops it for a moment at every call, for longer while children of it come and go; held
  /// it stays so.
  [[nodiscard]] bool is_held() const {
    if (run_.calls("fdatasync") < write_) {
      return false;
    }
    for (int look = 0; look < 20; ++look) {
      if (run_.guardian() < 0 || state_of(run_.guardian()) != 't') {
        return false;
      }
      const timespec pause{0, 5'000'000};
      ::nanosleep(&pause, nullptr);
    }
    return true;
  }

  TracedRun run_;
  int write_;
};

Json nic_config() {
  return probe_with({{{"device", device::nic}}});
}

/// With every kind of step that needs no systemd.
Json whole_config() {
  Json config = probe_with({{{"device", device::boot_gpu}},
                            {{"device", device::gpu}, {"rescan", true}},
                            {{"device", device::gpu_audio}, {"driver", "pci-stub"}}});
  config["single_gpu"] = true;
  config["memory"] = {{"size", "64M"}, {"hugepages", "2M"}, {"node", 1}};
  config["module_parameters"] = {{"kvm.ignore_msrs", true}};
  config["usb"] = {{{"device", "ffff:fffe"}, {"optional", true}}};
  config["network"] = {{{"bridge", "br0"}}, {{"macvtap", link_of(device::nic)}}};
  return config;
}

/// How many were killed of how many points.
struct Swept {
  int killed = 0;
  int points = 0;  ///< counted in a run that nobody disturbed
};

void report(const char* victim, const char* points, const Swept& swept, int first, int step) {
  CHECK(swept.points >= 9);
  CHECK(swept.killed == (swept.points - first) / step + 1);
  std::printf("kill sweep: %s killed at %d of %d %s\n", victim, swept.killed, swept.points, points);
}

/// What is started again and again, and how.
struct Subject {
  const char* name;
  Json (*make_config)();
  Starter starter = Starter::root;

  /// How many entries its run makes that nobody disturbs, once a sweep has come to that. A start
  /// with every kind of step takes a minute: one serves all sweeps between two boots.
  [[nodiscard]] std::optional<int> known_points() const {
    const std::string text = contents(count_file());
    return text.empty() ? std::nullopt : std::optional(std::stoi(text));
  }
  void note_points(int points) const { std::ofstream(count_file()) << points; }

 private:
  [[nodiscard]] std::string count_file() const {
    return "/tmp/entries-of-" + std::string(name) + (starter == Starter::sudo ? "-with-sudo" : "");
  }
};

constexpr Subject kNic{"nic", nic_config};
constexpr Subject kNicWithSudo{"nic", nic_config, Starter::sudo};
constexpr Subject kWhole{"whole", whole_config};

/// Kills `victim` at each entry of the journal, `step` apart; the host must be as before, at once
/// where a guardian is left, else after `recover`.
template <typename VictimAt>
Swept sweep(VictimAt victim_at, int first, int step, const Subject& subject) {
  Swept swept;
  for (int write = first;; write += step) {
    if (const auto points = subject.known_points(); points && write > *points) {
      swept.points = *points;
      return swept;
    }
    const Victim victim = victim_at(write);
    INFO(name_of(victim) << " at entry " << write);
    const Folder folder;
    const HostSnapshot before = host_snapshot();
    const Json config = subject.make_config();
    HeldRun held_run(start(folder, config, subject.starter), write);
    TracedRun& run = held_run.run();
    if (!held_run.wait_until_held()) {
      INFO(run.output());
      CHECK(run.exit_code(kTracedRun) == 0);
      CHECK(run.output().find("host restored") != std::string::npos);
      swept.points = run.calls("fdatasync");
      subject.note_points(swept.points);
      return swept;
    }
    held_run.kill(victim);
    CHECK(eventually([&] { return !run.guardian_lives(); }, Seconds(60)));
    if (victim == Victim::guardian || victim == Victim::both) {
      Program recover(command_of({"recover", config.at("name")}));
      CHECK(recover.exit_code() == 0);
      INFO(recover.output());
    }
    INFO(run.output());
    CHECK(lasting_difference(before) == "");
    ++swept.killed;
  }
}

void sweep_nic(Victim victim, int first, int step, const Subject& subject = kNic) {
  const auto same = [&](int /*write*/) { return victim; };
  report(name_of(victim), "entries", sweep(same, first, step, subject), first, step);
}

/// With every kind of step: the supervisor, the guardian or both, in turn.
void sweep_whole(int first, int step) {
  const Made bridge = a_bridge();
  const auto victim_at = [](int write) {
    return std::array{Victim::supervisor, Victim::guardian, Victim::both}.at(
        static_cast<std::size_t>(write) % 3);
  };
  const Swept swept = sweep(victim_at, first, step, kWhole);
  CHECK(swept.points >= 50);
  report("one of three", "entries with every kind of step", swept, first, step);
}

/// Kills the supervisor as it sends its `first`-th packet, and so on, `step` apart. The guardian
/// must undo all by itself.
void sweep_packets(int first, int step) {
  Swept swept;
  for (int packet = first;; packet += step) {
    INFO("the supervisor at packet " << packet);
    const Folder folder;
    const HostSnapshot before = host_snapshot();
    // Without -f: the guardian's packets do not count.
    TracedRun run(start(folder, nic_config(), Starter::root),
                  {"-e",
                   "trace=sendmsg",
                   "-e",
                   "inject=sendmsg:signal=SIGKILL:when=" + std::to_string(packet)});
    CHECK(eventually([&] { return !run.go_on(); }, Seconds(60)));
    const int code = run.exit_code();
    CHECK(eventually([&] { return !run.guardian_lives(); }, Seconds(60)));
    INFO(run.output());
    CHECK(lasting_difference(before) == "");
    if (code != 128 + SIGKILL) {
      CHECK(code == 0);
      swept.points = run.calls("sendmsg");
      break;
    }
    ++swept.killed;
  }
  report(name_of(Victim::supervisor), "packets", swept, first, step);
}

}  // namespace

TEST_CASE("sweep: killed at a sample of the journal's entries, the host comes back", "[intel]") {
  // Together: what is made, kept awake, reserved, bound, given and started, and the ways back.
  sweep_nic(Victim::supervisor, 4, 7);
  sweep_nic(Victim::guardian, 6, 7);
  sweep_nic(Victim::both, 5, 7);
  sweep_nic(Victim::group, 7, 7);
}

TEST_CASE("sweep: started with sudo and killed at a sample of the entries, the host comes back",
          "[intel]") {
  for (const Victim victim : {Victim::supervisor, Victim::guardian}) {
    sweep_nic(victim, 9, 10, kNicWithSudo);
  }
}

TEST_CASE("sweep: the supervisor killed at a sample of its packets, the host comes back at once",
          "[intel]") {
  sweep_packets(3, 6);
}

// Long ones in parts, since a case has only so much time.

TEST_CASE("sweep: the supervisor killed at every packet, the host comes back at once",
          "[intel-sweep][intel-6.12][full]") {
  sweep_packets(1, 1);
}

TEMPLATE_TEST_CASE_SIG("sweep: the supervisor killed at every entry, the host comes back",
                       "[intel-sweep][intel-6.12][full]",
                       ((int first), first),
                       1,
                       2) {
  sweep_nic(Victim::supervisor, first, 2);
}

TEMPLATE_TEST_CASE_SIG("sweep: the guardian killed at every entry, the host comes back",
                       "[intel-sweep][intel-6.12][full]",
                       ((int first), first),
                       1,
                       2) {
  sweep_nic(Victim::guardian, first, 2);
}

TEMPLATE_TEST_CASE_SIG("sweep: both killed at every entry, the host comes back",
                       "[intel-sweep][intel-6.12][full]",
                       ((int first), first),
                       1,
                       2) {
  sweep_nic(Victim::both, first, 2);
}

TEMPLATE_TEST_CASE_SIG("sweep: the process group killed at every entry, the host comes back",
                       "[intel-sweep][intel-6.12][full]",
                       ((int first), first),
                       1,
                       2) {
  sweep_nic(Victim::group, first, 2);
}

TEMPLATE_TEST_CASE_SIG(
    "sweep: started with sudo, the supervisor killed at every entry, the host comes back",
    "[intel-sweep][full]",
    ((int first), first),
    1,
    2) {
  sweep_nic(Victim::supervisor, first, 2, kNicWithSudo);
}

TEMPLATE_TEST_CASE_SIG(
    "sweep: started with sudo, the guardian killed at every entry, the host comes back",
    "[intel-sweep][full]",
    ((int first), first),
    1,
    2) {
  sweep_nic(Victim::guardian, first, 2, kNicWithSudo);
}

TEMPLATE_TEST_CASE_SIG("sweep: started with sudo, both killed at every entry, the host comes back",
                       "[intel-sweep][full]",
                       ((int first), first),
                       1,
                       2) {
  sweep_nic(Victim::both, first, 2, kNicWithSudo);
}

TEMPLATE_TEST_CASE_SIG(
    "sweep: started with sudo, the process group killed at every entry, the host comes back",
    "[intel-sweep][full]",
    ((int first), first),
    1,
    2) {
  sweep_nic(Victim::group, first, 2, kNicWithSudo);
}

TEST_CASE("sweep: with every kind of step, killed at a sample of the entries, the host comes back",
          "[intel]") {
  sweep_whole(11, 13);  // both, the supervisor, the guardian, and both again
}

TEMPLATE_TEST_CASE_SIG("sweep: with every kind of step, killed at each entry, the host comes back",
                       "[intel-sweep-whole][full]",
                       ((int first), first),
                       1,
                       2,
                       3,
                       4,
                       5,
                       6,
                       7,
                       8,
                       9,
                       10,
                       11,
                       12,
                       13,
                       14,
                       15) {
  sweep_whole(first, 15);
}
