#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "launcher/steps/steps.hpp"
#include "tests/component/guardian_talk.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;
using namespace vmlaunch::launcher;

TEST_CASE("guardian: it obeys in the order of a run and tells each state") {
  if (skipped_without_root()) {
    return;
  }
  Sealing sealing(kPerson);
  sealing.seal.plan.qemu.user.credentials = uid(kPerson);
  Talk talk(person());
  CHECK(talk.state() == "idle");
  auto reply = talk.seal(sealing.seal, sealing.fds());
  REQUIRE(reply.has_value());
  REQUIRE(std::holds_alternative<guardian::Sealed>(*reply));
  CHECK(talk.state() == "sealed");
  reply = talk.ask(guardian::Request(guardian::Spawn{}));
  REQUIRE(reply.has_value());
  const pid_t qemu = std::get<guardian::Spawned>(*reply).pid;
  CHECK(lives(qemu));
  CHECK(talk.state() == "running");
  reply = talk.ask(guardian::Request(guardian::Signal{SIGTERM}));
  REQUIRE(reply.has_value());
  CHECK(std::holds_alternative<guardian::StatusReply>(*reply));
  reply = talk.next();
  REQUIRE(reply.has_value());
  CHECK(std::get<guardian::Exited>(*reply).status == base::ExitStatus{0, SIGTERM});
  CHECK(talk.state() == "ended");
  reply = talk.ask(guardian::Request(guardian::Undo{}));
  REQUIRE(reply.has_value());
  CHECK(std::get<guardian::Done>(*reply).leftovers.empty());
  CHECK_FALSE(talk.next().has_value());
}

TEST_CASE("guardian: anything out of order ends the connection, and QEMU with it") {
  if (skipped_without_root()) {
    return;
  }
  const std::vector<std::string> nonsense = {"{}",
                                             "[]",
                                             "x",
                                             R"({"do":"spawn"})",
                                             R"({"do":"usb-changed"})",
                                             R"({"do":"filter-phase","open":true})",
                                             R"({"do":"exec","path":"/bin/sh"})",
                                             R"({"do":"signal","signal":11})"};
  for (const std::string& bytes : nonsense) {
    INFO(bytes);
    Talk talk(person());
    CHECK_FALSE(talk.ask(bytes).has_value());
  }
  for (const char* what : {"seal", "spawn", "change of USB devices that the plan has not"}) {
    INFO("a " << what << " again");
    Sealing sealing(kPerson);
    sealing.seal.plan.qemu.user.credentials = uid(kPerson);
    Talk talk(person());
    REQUIRE(talk.seal(sealing.seal, sealing.fds()).has_value());
    const auto spawned = talk.ask(guardian::Request(guardian::Spawn{}));
    REQUIRE(spawned.has_value());
    const pid_t qemu = std::get<guardian::Spawned>(*spawned).pid;
    const bool seal_again = what == std::string("seal");
    const guardian::Request spawn_again = guardian::Spawn{};
    const auto answer =
        seal_again ? talk.ask(guardian::Request(sealing.seal), sealing.fds())
                   : talk.ask(what == std::string("spawn") ? spawn_again : guardian::UsbChanged{});
    CHECK_FALSE(answer.has_value());
    CHECK(eventually([&] { return !lives(qemu); }));
  }
}

TEST_CASE("guardian: a change of USB devices is heeded while QEMU runs, and harmless afterwards") {
  if (skipped_without_root()) {
    return;
  }
  Sealing sealing(kPerson);
  sealing.seal.plan.qemu.user.credentials = uid(kPerson);
  const config::UsbIds nothing{0xffff, 0xfffe};
  sealing.seal.plan.qemu.dev->usb = {nothing};
  sealing.seal.plan.steps = {launcher::steps::lend_usb(nothing, true)};
  Talk talk(person());
  REQUIRE(talk.seal(sealing.seal, sealing.fds()).has_value());
  REQUIRE(talk.ask(guardian::Request(guardian::Apply{0})).has_value());
  REQUIRE(talk.ask(guardian::Request(guardian::Spawn{})).has_value());
  const auto state = [&] {
    const auto reply = talk.ask(guardian::Request(guardian::UsbChanged{}));
    return reply ? std::get<guardian::StatusReply>(*reply).state : "gone";
  };
  CHECK(state() == "running");
  REQUIRE(talk.ask(guardian::Request(guardian::Signal{SIGKILL})).has_value());
  REQUIRE(talk.next().has_value());
  CHECK(state() == "ended");
}

TEST_CASE("guardian: a plan is taken for the VM that was begun, and one VM is") {
  if (skipped_without_root()) {
    return;
  }
  Sealing sealing(kPerson);
  sealing.seal.plan.qemu.user.credentials = uid(kPerson);
  CHECK_FALSE(Talk(person()).ask(guardian::Request(sealing.seal), sealing.fds()).has_value());
  CHECK_FALSE(Talk(person()).seal(sealing.seal, sealing.fds(), "other").has_value());
  Talk twice(person());
  REQUIRE(twice.ask(guardian::Request(guardian::Begin{own_vm()})).has_value());
  CHECK_FALSE(twice.ask(guardian::Request(guardian::Begin{own_vm()})).has_value());
}

TEST_CASE("guardian: after a name that was refused no plan is taken") {
  if (skipped_without_root()) {
    return;
  }
  Sealing sealing(kPerson);
  sealing.seal.plan.qemu.user.credentials = uid(kPerson);
  Talk first(person());
  REQUIRE(first.ask(guardian::Request(guardian::Begin{own_vm()})).has_value());
  Talk second(person());
  const auto begun = second.ask(guardian::Request(guardian::Begin{own_vm()}));
  REQUIRE(begun.has_value());
  CHECK(std::get<guardian::Refused>(*begun).code == ExitCode::held);
  CHECK_FALSE(second.ask(guardian::Request(sealing.seal), sealing.fds()).has_value());
}

TEST_CASE("guardian: as a program it obeys nobody who has not its rights") {
  if (skipped_without_root()) {
    return;
  }
  const std::string identity = guardian::encode(person());
  for (const uid_t owner : {uid_t{0}, kPerson}) {
    INFO(owner);
    REQUIRE(::seteuid(owner) == 0);
    auto [ours, theirs] = base::make_socket_pair(SOCK_SEQPACKET);
    REQUIRE(::seteuid(0) == 0);
    const base::Child child = base::fork_child("a guardian");
    if (child.pid == 0) {
      ::dup2(theirs.get(), STDIN_FILENO);
      ::execl(VMLAUNCH_PROGRAM, "vmlaunch", guardian::kVerb, identity.c_str(), nullptr);
      ::_exit(127);
    }
    theirs.reset();
    if (owner == 0) {
      base::send_packet(ours.get(), guardian::encode(guardian::Request(guardian::Status{})));
      const auto packet = base::receive_packet(ours.get());
      REQUIRE(packet.has_value());
      REQUIRE(packet->fds.size() == 1);  // itself
      ours.reset();
      CHECK(base::wait_readable(packet->fds[0].get(),
                                std::chrono::steady_clock::now() + std::chrono::seconds(10)));
    }
    const auto status = base::reap_within(child.pidfd.get(), std::chrono::seconds(10));
    REQUIRE(status.has_value());
    CHECK(status->code == (owner == 0 ? 0 : 2));
  }
}

TEST_CASE("guardian: a plan that claims more than the config's owner may is not taken") {
  if (skipped_without_root()) {
    return;
  }
  const auto refused = [](const Identity& identity, uid_t owner, auto change) {
    Sealing sealing(owner);
    sealing.seal.plan.qemu.user.credentials = uid(kPerson);
    std::vector<int> fds = sealing.fds();
    change(sealing, fds);
    Talk talk(identity);
    const auto reply = talk.seal(sealing.seal, fds);
    return !reply || std::holds_alternative<guardian::Refused>(*reply);
  };
  const auto nothing = [](Sealing&, std::vector<int>&) {};
  CHECK_FALSE(refused(person(), kPerson, nothing));
  CHECK_FALSE(refused(root_alone(), 0, nothing));

  CHECK(refused(person(), 777, nothing));          // somebody else's config
  CHECK(refused(root_alone(), kPerson, nothing));  // a person's config without that person
  CHECK(refused(person(), kPerson, [](Sealing& s, auto&) {
    s.seal.plan.qemu.user.credentials = uid(4242);  // another user
  }));
  CHECK(refused(
      root_alone(), 0, [](Sealing& s, auto&) { s.seal.plan.qemu.user.credentials = uid(0); }));
  CHECK(refused(root_alone(), 0, [](Sealing& s, auto&) {
    s.seal.plan.qemu.dev = std::nullopt;  // the host's /dev
  }));
  CHECK(refused(root_alone(), 0, [](Sealing& s, auto&) {
    s.seal.plan.qemu.dev = std::nullopt;
    s.seal.plan.qemu.root.whole_host = true;
  }));
  CHECK(refused(root_alone(), 0, [](Sealing& s, auto&) {
    s.seal.plan.qemu.root.user_namespace = true;  // a user's run
  }));
  CHECK(refused(person(), kPerson, [](Sealing& s, auto& fds) {
    s.seal.program_opened = false;  // root is to open the program
    fds.pop_back();
  }));
  CHECK(refused(person(), kPerson, [](Sealing& s, auto&) {
    s.seal.plan.files = {{"disk 0", "/etc/shadow"}};  // root is to open a file
    s.seal.plan.files[0].fd = plan::kFirstFileFd;
  }));
  CHECK(refused(person(), kPerson, [](Sealing&, auto& fds) { fds.push_back(fds[0]); }));
  CHECK(refused(person(), kPerson, [](Sealing& s, auto&) { s.seal.config_name = "other.json"; }));
  CHECK(refused(
      person(), kPerson, [](Sealing& s, auto&) { REQUIRE(::fchmod(s.config.get(), 0666) == 0); }));
}

TEST_CASE("guardian: a kernel that QEMU's user may not read is refused with what to type") {
  if (skipped_without_root()) {
    return;
  }
  Sealing sealing(0);
  sealing.seal.plan.files = {{"kernel", sealing.folder.write("vmlinuz", "x", 0600)}};
  sealing.seal.plan.files[0].fd = plan::kFirstFileFd;
  sealing.seal.plan.files[0].reopened = true;
  Talk talk(root_alone());
  const auto reply = talk.seal(sealing.seal, sealing.fds());
  REQUIRE(reply.has_value());
  const auto& refusal = std::get<guardian::Refused>(*reply);
  CHECK(refusal.code == ExitCode::preflight);
  CHECK(refusal.message.find("type: chmod o+r ") != std::string::npos);
}
