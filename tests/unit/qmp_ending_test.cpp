#include <csignal>
#include <string>
#include <vector>

#include "qmp/ending.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::qmp {
namespace {

using Kind = Verdict::Kind;

constexpr base::ExitStatus kFine{};
constexpr base::ExitStatus kFailed{1, 0};
constexpr base::ExitStatus kCrashed{0, SIGSEGV};
const CloseReason kEof{CloseReason::Kind::eof, "QEMU closed the connection"};
const CloseReason kReset{CloseReason::Kind::reset, "the connection broke"};
const CloseReason kLocal{CloseReason::Kind::local, "closed by this side"};

Event event(const std::string& name, const Json& data = Json::object()) {
  return {name, data, 1, 2};
}

Event shutdown(const std::string& reason) {
  return event("SHUTDOWN", {{"guest", reason.starts_with("guest")}, {"reason", reason}});
}

/// An ending of these events.
Ending after(const std::vector<Event>& events) {
  Ending ending;
  for (const Event& one : events) {
    ending.note(one);
  }
  return ending;
}

Kind kind_of(Ending ending, const CloseReason& close, const base::ExitStatus& status) {
  ending.close = close;
  ending.status = status;
  return judge(ending).kind;
}

TEST_CASE("ending: after a word of QEMU's, a closed and a reset connection are one", "[qmp]") {
  for (const CloseReason& close : {kEof, kReset}) {
    CHECK(kind_of(after({shutdown("guest-shutdown")}), close, kFine) == Kind::orderly);
    CHECK(kind_of(after({shutdown("host-qmp-quit")}), close, kFine) == Kind::orderly);
    CHECK(kind_of(after({shutdown("host-signal")}), close, kFine) == Kind::orderly);
    CHECK(kind_of(after({shutdown("host-error")}), close, kFine) == Kind::failed);
    CHECK(kind_of(after({shutdown("a new reason")}), close, kFine) == Kind::orderly);
    CHECK(kind_of(after({}), close, kFine) == Kind::failed);
    CHECK(kind_of(after({shutdown("guest-shutdown")}), close, kCrashed) == Kind::crashed);
    CHECK(kind_of(after({shutdown("guest-shutdown")}), close, kFailed) == Kind::failed);
  }
}

TEST_CASE("ending: a watchdog's power-off is one in order, if it was the last word", "[qmp]") {
  const Event poweroff = event("WATCHDOG", {{"action", "poweroff"}});
  const Event pause = event("WATCHDOG", {{"action", "pause"}});
  CHECK(kind_of(after({poweroff}), kEof, kFine) == Kind::orderly);
  CHECK(kind_of(after({pause}), kEof, kFine) == Kind::failed);
  CHECK(kind_of(after({poweroff, pause}), kEof, kFine) == Kind::failed);
}

TEST_CASE("ending: a panic is what counts, however QEMU ended then", "[qmp]") {
  const std::vector<Event> events = {event("GUEST_PANICKED", {{"action", "poweroff"}}),
                                     shutdown("guest-panic")};
  CHECK(kind_of(after(events), kEof, kFine) == Kind::guest_panicked);
  CHECK(kind_of(after(events), kEof, kCrashed) == Kind::guest_panicked);
  CHECK(judge(after(events)).kind == Kind::running);  // paused by it, perhaps
  const Event goes_on = event("GUEST_PANICKED", {{"action", "run"}});
  CHECK(kind_of(after({goes_on, shutdown("guest-shutdown")}), kEof, kFine) == Kind::orderly);
}

TEST_CASE("ending: the first SHUTDOWN counts, and strange ones do no harm", "[qmp]") {
  Ending ending = after({shutdown("guest-shutdown"), shutdown("host-qmp-quit")});
  CHECK(ending.shutdown->by_guest);
  CHECK(ending.shutdown->reason == "guest-shutdown");
  ending = after({event("SHUTDOWN", {{"guest", "yes"}, {"reason", 1}})});
  CHECK_FALSE(ending.shutdown->by_guest);
  CHECK(ending.shutdown->reason.empty());
  CHECK_FALSE(after({event("WATCHDOG"), event("GUEST_SHUTDOWN")}).shutdown);
}

TEST_CASE("ending: what a guest went on after is not its end", "[qmp]") {
  const Event panic = event("GUEST_PANICKED", {{"action", "pause"}});
  Ending ending = after({shutdown("guest-shutdown"), panic, event("STOP"), event("RESUME")});
  CHECK_FALSE(ending.shutdown);
  CHECK_FALSE(ending.panicked);
  ending.note(shutdown("host-qmp-quit"));
  ending.status = base::ExitStatus{};
  CHECK(judge(ending).text == "QEMU was ended as asked");
  ending.note(event("RESUME"));  // of a cont that was under way
  CHECK(judge(ending).text == "QEMU was ended as asked");
}

TEST_CASE("ending: without the process's end, the connection tells what it can", "[qmp]") {
  CHECK(judge({}).kind == Kind::running);
  Ending ending;
  ending.close = kLocal;  // a QEMU outlives its client
  CHECK(judge(ending).kind == Kind::running);
  ending.close = kEof;
  CHECK(judge(ending).kind == Kind::unknown);
  CHECK(judge(ending).text == "QEMU is gone without a word of its end: QEMU closed the connection");
  ending.note(shutdown("host-qmp-quit"));
  CHECK(judge(ending).kind == Kind::orderly);
  Ending given_up;
  given_up.close = CloseReason{CloseReason::Kind::protocol, "What came was not QMP"};
  CHECK(judge(given_up).kind == Kind::running);
}

TEST_CASE("ending: a failed start is explained by QEMU's words, a hung one by ours", "[qmp]") {
  Ending ending;
  ending.handshake_failure.emplace(HandshakeError::Cause::closed, "The handshake ended");
  ending.status = kFailed;
  CHECK(judge(ending).kind == Kind::not_started);
  CHECK(judge(ending).text == "QEMU did not start (exit code 1): The handshake ended");
  ending.errors = "qemu: no such device";
  CHECK(judge(ending).text == "QEMU did not start (exit code 1): qemu: no such device");
  ending.handshake_failure.emplace(HandshakeError::Cause::no_answer, "No answer within 5s");
  CHECK(judge(ending).text == "QEMU did not start (exit code 1): No answer within 5s");
  ending.status = std::nullopt;
  CHECK(judge(ending).kind == Kind::unknown);  // another client may have the monitor
  CHECK(judge(ending).text == "QEMU does not answer: No answer within 5s");
  ending.close = kEof;
  CHECK(judge(ending).text == "QEMU did not start: No answer within 5s");
}

}  // namespace
}  // namespace vmlaunch::qmp
