#include "launcher/run/verdict.hpp"

#include <algorithm>
#include <csignal>
#include <cstdint>

#include "base/text.hpp"

namespace vmlaunch::launcher::run {

namespace {

ExitCode code_of(qmp::Verdict::Kind kind) {
  using Kind = qmp::Verdict::Kind;
  switch (kind) {
    case Kind::orderly:
      return ExitCode::ended;
    case Kind::not_started:
      return ExitCode::qemu_did_not_start;
    case Kind::guest_panicked:
      return ExitCode::guest_panicked;
    case Kind::running:
    case Kind::unknown:
    case Kind::failed:
    case Kind::crashed:
      break;
  }
  return ExitCode::qemu_crashed;
}

constexpr const char* kLogHint = "vmlaunch run --sandbox=log FILE";

bool ended_by(const qmp::Ending& ending, int signal) {
  return ending.status && ending.status->signal == signal;
}

std::string short_hex(std::uint64_t value) {
  const std::string text = base::hex(value, 16);
  return "0x" + text.substr(std::min(text.find_first_not_of('0'), text.size() - 1));
}

}  // namespace

std::string describe_end(const qmp::Ending& ending,
                         const std::optional<guardian::CallRefused>& fatal_call) {
  if (fatal_call && ended_by(ending, SIGKILL)) {
    return describe(*fatal_call);
  }
  const std::string text = qmp::judge(ending).text;
  return ended_by(ending, SIGSYS)
             ? text + ": it made a system call that no VM may make; to see which: " + kLogHint
             : text;
}

Verdict judge(const qmp::Ending& ending,
              bool had_to_kill,
              bool hurried,
              const std::optional<guardian::CallRefused>& fatal_call) {
  const bool by_itself = ending.shutdown && ending.shutdown->reason == "guest-shutdown" &&
                         ending.status == base::ExitStatus{};
  if (fatal_call && ended_by(ending, SIGKILL)) {
    return {ExitCode::qemu_crashed, describe(*fatal_call)};
  }
  if (had_to_kill && !by_itself) {
    return {ExitCode::had_to_kill, "the guest did not shut down in time and was ended"};
  }
  const qmp::Verdict verdict = qmp::judge(ending);
  if (verdict.kind == qmp::Verdict::Kind::crashed && hurried) {
    return {ExitCode::ended, "QEMU was killed as asked"};
  }
  return {code_of(verdict.kind), describe_end(ending, fatal_call)};
}

std::string describe(const guardian::CallRefused& refused) {
  using Outcome = sandbox::RefusedCall::Outcome;
  const auto& arguments = refused.what.call.arguments;
  std::string shown;
  for (std::size_t i = 0; i < 3; ++i) {
    shown += short_hex(arguments.at(i)) + ", ";
  }
  const std::string tried = "QEMU tried " + base::printable(refused.name) + "(" + shown + "...), ";
  switch (refused.what.outcome) {
    case Outcome::logged:
      return tried + "which \"sandbox\": \"on\" would not let it do";
    case Outcome::refused:
      return tried + "which no device of this VM needs: it was refused";
    case Outcome::late:
      return tried + "which it may do only before the guest runs: it was refused";
    case Outcome::newer:
      return tried + "which is newer than this vmlaunch: QEMU was told that there is none";
    case Outcome::ended:
      break;
  }
  return tried +
         "which no device of this VM needs, and was ended; if it had a good reason, see what else "
         "it needs: " +
         kLogHint;
}

}  // namespace vmlaunch::launcher::run
