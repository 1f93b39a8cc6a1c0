#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <set>

#include "tests/component/vm.hpp"
#include "tests/lab/host_snapshot.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

namespace {

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

/// One run of the probe with the NIC, held by strace at the guardian's `write`-th entry in its
/// journal, after the entry is on disk and before anything follows from it.
class HeldRun {
 public:
  HeldRun(const Folder& folder, const Json& config, int write)
      : vm_(config.at("name")), program_(launch(run_of(folder, config), write)) {}

  /// True when it stopped at the entry, false when it ended before it came to that.
  bool wait_until_held() {
    bool stopping = false;
    return eventually(
               [&] {
                 find();
                 if (!stopping && program_.says("] running", Seconds(0.02))) {
                   stopping = true;
                   ::kill(supervisor_, SIGTERM);
                 }
                 ended_ = program_.wait(Seconds(0.02)).has_value();
                 return ended_ || is_held();
               },
               Seconds(60)) &&
           !ended_;
  }

  void kill(Victim victim) {
    if (victim == Victim::guardian) {
      ::kill(guardian_, SIGKILL);
    } else {
      // First it is held too, so that it sees nothing of the other's death.
      ::kill(supervisor_, SIGSTOP);
      if (victim == Victim::both) {
        ::kill(guardian_, SIGKILL);
      }
      ::kill(victim == Victim::group ? -::getpgid(supervisor_) : supervisor_, SIGKILL);
    }
    ::kill(guardian_, SIGCONT);
    static_cast<void>(program_.wait(Seconds(60)));
  }

  [[nodiscard]] const std::string& vm() const { return vm_; }
  [[nodiscard]] const std::string& output() const { return program_.output(); }
  [[nodiscard]] bool guardian_lives() const { return guardian_ > 0 && lives(guardian_); }

 private:
  static Launch launch(Launch run, int write) {
    const std::vector<std::string> strace = {
        "/usr/bin/strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:signal=SIGSTOP:when=" + std::to_string(write),
        "setsid"};
    run.arguments.insert(run.arguments.begin(), strace.begin(), strace.end());
    return run;
  }

  /// strace's child is the supervisor, whose first child is the guardian.
  void find() {
    if (supervisor_ < 0 && !children_of(program_.pid()).empty()) {
      supervisor_ = children_of(program_.pid()).front();
    }
    if (supervisor_ > 0 && guardian_ < 0) {
      for (const pid_t child : children_of(supervisor_)) {
        if (contents("/proc/" + std::to_string(child) + "/comm") == "vmlaunch-guard") {
          guardian_ = child;
        }
      }
    }
  }

  /// strace stops it for a moment at every call; held it stays so.
  [[nodiscard]] bool is_held() const {
    for (int look = 0; look < 20; ++look) {
      if (guardian_ < 0 || state_of(guardian_) != 't') {
        return false;
      }
      const timespec pause{0, 5'000'000};
      ::nanosleep(&pause, nullptr);
    }
    return true;
  }

  std::string vm_;
  Program program_;
  pid_t supervisor_ = -1;
  pid_t guardian_ = -1;
  bool ended_ = false;
};

/// Kills `victim` at each entry of the journal, `step` apart; the host must be as before, at once
/// where a guardian is left, else after `recover`. Gives the number of entries.
int sweep(Victim victim, int first, int step) {
  int held = 0;
  for (int write = first;; write += step) {
    INFO(name_of(victim) << " at entry " << write);
    const Folder folder;
    const HostSnapshot before = host_snapshot();
    Json config = probe_config();
    config["pci"] = {{{"device", device::nic}}};
    HeldRun run(folder, config, write);
    if (!run.wait_until_held()) {
      INFO(run.output());
      CHECK(run.output().find("host restored") != std::string::npos);
      return held;
    }
    run.kill(victim);
    CHECK(eventually([&] { return !run.guardian_lives(); }, Seconds(60)));
    if (victim == Victim::guardian || victim == Victim::both) {
      Program recover(command_of({"recover", run.vm()}));
      CHECK(recover.exit_code() == 0);
      INFO(recover.output());
    }
    INFO(run.output());
    std::string changed;
    CHECK(eventually(
        [&] {
          changed = difference(before, host_snapshot());
          return changed.empty();
        },
        Seconds(20)));
    CHECK(changed == "");
    ++held;
  }
}

void sweep_whole(Victim victim, int first, int step) {
  const int held = sweep(victim, first, step);
  CHECK(held >= 12 / step);
  std::printf("kill sweep: %s killed at %d of %d entries\n", name_of(victim), held, held);
}

}  // namespace

TEST_CASE("sweep: killed at a sample of the journal's entries, the host comes back", "[intel]") {
  for (const Victim victim : {Victim::supervisor, Victim::guardian, Victim::both, Victim::group}) {
    sweep_whole(victim, 2, 7);
  }
}

TEST_CASE("sweep: the supervisor killed at every entry, the host comes back", "[intel][full]") {
  sweep_whole(Victim::supervisor, 1, 1);
}

TEST_CASE("sweep: the guardian killed at every entry, the host comes back", "[intel][full]") {
  sweep_whole(Victim::guardian, 1, 1);
}

TEST_CASE("sweep: both killed at every entry, the host comes back", "[intel][full]") {
  sweep_whole(Victim::both, 1, 1);
}

TEST_CASE("sweep: the process group killed at every entry, the host comes back", "[intel][full]") {
  sweep_whole(Victim::group, 1, 1);
}
