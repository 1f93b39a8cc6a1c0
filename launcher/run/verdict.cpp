#include "launcher/run/verdict.hpp"

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

}  // namespace

Verdict judge(const qmp::Ending& ending, bool had_to_kill, bool hurried) {
  const bool by_itself = ending.shutdown && ending.shutdown->reason == "guest-shutdown" &&
                         ending.status == base::ExitStatus{};
  if (had_to_kill && !by_itself) {
    return {ExitCode::had_to_kill, "the guest did not shut down in time and was ended"};
  }
  const qmp::Verdict verdict = qmp::judge(ending);
  if (verdict.kind == qmp::Verdict::Kind::crashed && hurried) {
    return {ExitCode::ended, "QEMU was killed as asked"};
  }
  return {code_of(verdict.kind), verdict.text};
}

}  // namespace vmlaunch::launcher::run
