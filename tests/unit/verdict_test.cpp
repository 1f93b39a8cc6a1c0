#include "launcher/run/verdict.hpp"

#include <csignal>
#include <optional>
#include <string>

#include "tests/support/catch.hpp"

namespace vmlaunch::launcher::run {
namespace {

constexpr base::ExitStatus kFine{};
constexpr base::ExitStatus kFailed{1, 0};
constexpr base::ExitStatus kKilled{0, SIGKILL};
constexpr base::ExitStatus kCrashed{0, SIGSEGV};

/// What was seen of the end, and of how it was asked for.
struct Seen {
  base::ExitStatus status;
  std::optional<qmp::Shutdown> shutdown;
  bool panicked = false;
  bool watchdog_poweroff = false;
  bool had_to_kill = false;
  bool hurried = false;
};

std::string verdict(const Seen& seen) {
  qmp::Ending ending;
  ending.status = seen.status;
  ending.shutdown = seen.shutdown;
  ending.panicked = seen.panicked;
  ending.watchdog_poweroff = seen.watchdog_poweroff;
  const Verdict verdict = judge(ending, seen.had_to_kill, seen.hurried);
  return std::to_string(static_cast<int>(verdict.code)) + ": " + verdict.text;
}

std::optional<qmp::Shutdown> shutdown(const char* reason) {
  return qmp::Shutdown{false, reason};
}

TEST_CASE("verdict: how QEMU ended decides the exit code and its sentence", "[run]") {
  const std::string had_to_kill = "18: the guest did not shut down in time and was ended";
  const std::string panicked = "17: the guest panicked";
  const std::string as_asked = "0: QEMU was killed as asked";
  const std::string no_word = "16: QEMU ended without a word of its end";
  const std::string watchdog = "0: the guest's watchdog powered it off";
  const std::string by_guest = "0: the guest shut down";
  const auto guest = shutdown("guest-shutdown");
  const auto quit = shutdown("host-qmp-quit");
  const auto panic = shutdown("guest-panic");
  struct Row {
    const char* name;
    Seen seen;
    std::string verdict;
  };
  for (const Row& row : {
           Row{"poweroff", {kFine, guest, false, false, false, false}, by_guest},
           Row{"quit", {kFine, quit, false, false, false, true}, "0: QEMU was ended as asked"},
           Row{"SIGTERM from outside",
               {kFine, shutdown("host-signal"), false, false, false, false},
               "0: QEMU was ended by a signal from outside"},
           Row{"a reset with -no-reboot",
               {kFine, shutdown("guest-reset"), false, false, false, false},
               "0: QEMU ended (guest-reset)"},
           Row{"a reason nobody knows",
               {kFine, shutdown(""), false, false, false, false},
               "0: QEMU ended ()"},
           Row{"watchdog", {kFine, std::nullopt, false, true, false, false}, watchdog},
           Row{"watchdog and a word", {kFine, guest, false, true, false, false}, by_guest},
           Row{"no word", {kFine, std::nullopt, false, false, false, false}, no_word},
           Row{"no word, hurried", {kFine, std::nullopt, false, false, false, true}, no_word},
           Row{"failure",
               {kFailed, std::nullopt, false, false, false, false},
               "16: QEMU failed: exit code 1"},
           Row{"failure after a word",
               {kFailed, guest, false, false, false, false},
               "16: QEMU failed: exit code 1"},
           Row{"failure, hurried",
               {kFailed, quit, false, false, false, true},
               "16: QEMU failed: exit code 1"},
           Row{"crash",
               {kCrashed, std::nullopt, false, false, false, false},
               "16: QEMU crashed: SIGSEGV"},
           Row{"crash after a word",
               {kCrashed, guest, false, false, false, false},
               "16: QEMU crashed: SIGSEGV"},
           Row{"kill -9 from outside",
               {kKilled, std::nullopt, false, false, false, false},
               "16: QEMU crashed: SIGKILL"},
           Row{"kill in a hurry", {kKilled, quit, false, false, false, true}, as_asked},
           Row{"panic that paused", {kFine, quit, true, false, false, true}, panicked},
           Row{"panic that shut down", {kFine, panic, true, false, false, false}, panicked},
           Row{"panic and crash", {kCrashed, panic, true, false, false, false}, panicked},
           Row{"panic and kill in a hurry", {kKilled, panic, true, false, false, true}, panicked},
           Row{"panic and watchdog", {kFine, std::nullopt, true, true, false, false}, panicked},
           Row{"too slow, quit was enough", {kFine, quit, false, false, true, false}, had_to_kill},
           Row{"too slow, killed", {kKilled, quit, false, false, true, false}, had_to_kill},
           Row{"too slow, then hurried", {kKilled, quit, false, false, true, true}, had_to_kill},
           Row{"panic and too slow", {kKilled, panic, true, false, true, false}, had_to_kill},
           Row{"too slow, failed", {kFailed, guest, false, false, true, false}, had_to_kill},
       }) {
    INFO(row.name);
    CHECK(verdict(row.seen) == row.verdict);
  }
}

guardian::CallRefused call(sandbox::RefusedCall::Outcome outcome) {
  return {"mmap", {{9, {0, 4096, 5, 1, 2, 3}}, outcome}};
}

TEST_CASE("verdict: a refused system call is told with what became of it", "[run]") {
  using Outcome = sandbox::RefusedCall::Outcome;
  const std::string tried = "QEMU tried mmap(0x0, 0x1000, 0x5, ...), which ";
  CHECK(describe(call(Outcome::refused)) == tried + "no device of this VM needs: it was refused");
  CHECK(describe(call(Outcome::late)) ==
        tried + "it may do only before the guest runs: it was refused");
  CHECK(describe(call(Outcome::newer)) ==
        tried + "is newer than this vmlaunch: QEMU was told that there is none");
  CHECK(describe(call(Outcome::logged)) == tried + "\"sandbox\": \"on\" would not let it do");
  CHECK(describe(call(Outcome::ended)) ==
        tried +
            "no device of this VM needs, and was ended; if it had a good reason, see what else it "
            "needs: vmlaunch run --sandbox=log FILE");
}

TEST_CASE("verdict: the system call that QEMU was ended for is the reason", "[run]") {
  const auto fatal = call(sandbox::RefusedCall::Outcome::ended);
  qmp::Ending ending;
  ending.status = kKilled;
  const Verdict killed = judge(ending, false, false, fatal);
  CHECK(killed.code == ExitCode::qemu_crashed);
  CHECK(killed.text == describe(fatal));
  CHECK(judge(ending, false, true, fatal).text == describe(fatal));
  CHECK(describe_end(ending, fatal) == describe(fatal));
  CHECK(describe_end(ending, {}) == "QEMU crashed: SIGKILL");
  ending.status = {0, SIGSYS};
  CHECK(judge(ending, false, false).text ==
        "QEMU crashed: SIGSYS: it made a system call that no VM may make; to see which: vmlaunch "
        "run --sandbox=log FILE");
  ending.status = kFine;
  CHECK(judge(ending, false, false, fatal).code != ExitCode::ended);
}

}  // namespace
}  // namespace vmlaunch::launcher::run
