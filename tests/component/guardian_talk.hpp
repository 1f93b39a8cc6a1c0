#pragma once

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file.hpp"
#include "base/packet.hpp"
#include "launcher/guardian/guardian.hpp"
#include "launcher/guardian/protocol.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::tests {

namespace guardian = launcher::guardian;
namespace plan = launcher::plan;
using guardian::Reply;
using launcher::Identity;

/// Tests run at the same time, and a VM has one run.
inline std::string own_vm() {
  return "vm-" + std::to_string(::getpid());
}

constexpr uid_t kPerson = 12345;

[[noreturn]] inline void no_rescue(base::UniqueFd /*qmp*/,
                                   const plan::Deadlines& /*deadlines*/,
                                   const sandbox::Credentials& /*credentials*/,
                                   pid_t /*parent*/) {
  ::_exit(0);
}

/// A guardian of our own to talk to, as a supervisor that may be hostile.
class Talk {
 public:
  explicit Talk(const Identity& identity) {
    auto [ours, theirs] = base::make_socket_pair(SOCK_SEQPACKET);
    child_ = base::fork_child("a guardian");
    if (child_.pid == 0) {
      ours.reset();
      ::_exit(guardian::run(std::move(theirs), identity, no_rescue));
    }
    socket_ = std::move(ours);
  }
  Talk(const Talk&) = delete;
  Talk& operator=(const Talk&) = delete;
  ~Talk() {
    socket_.reset();
    CHECK(base::reap_within(child_.pidfd.get(), std::chrono::seconds(30)));
  }

  /// The answer; nothing when the guardian ended the connection instead.
  std::optional<Reply> ask(const std::string& bytes, const std::vector<int>& fds = {}) {
    base::send_packet(socket_.get(), bytes, fds);
    return next();
  }
  std::optional<Reply> ask(const guardian::Request& request, const std::vector<int>& fds = {}) {
    return ask(guardian::encode(request), fds);
  }
  /// System calls that were refused are no answer: they are put aside.
  std::optional<Reply> next() {
    for (;;) {
      std::optional<Reply> reply = receive();
      if (!reply || !std::holds_alternative<guardian::CallRefused>(*reply)) {
        return reply;
      }
      refused_.push_back(std::get<guardian::CallRefused>(*reply).name);
    }
  }
  /// The descriptors that came so far, in their order.
  [[nodiscard]] std::vector<base::UniqueFd>& descriptors() { return fds_; }
  [[nodiscard]] const std::vector<std::string>& refused() const { return refused_; }

  /// What a run says after `vm` was begun.
  std::optional<Reply> seal(const guardian::Seal& seal,
                            const std::vector<int>& fds,
                            const std::string& vm = own_vm()) {
    const auto begun = ask(guardian::Request(guardian::Begin{vm}));
    REQUIRE(begun.has_value());
    REQUIRE(std::holds_alternative<guardian::Begun>(*begun));
    return ask(guardian::Request(seal), fds);
  }
  [[nodiscard]] std::string state() {
    const auto reply = ask(guardian::Request(guardian::Status{}));
    return reply ? std::get<guardian::StatusReply>(*reply).state : "gone";
  }

 private:
  std::optional<Reply> receive() {
    if (!base::wait_readable(socket_.get(),
                             std::chrono::steady_clock::now() + std::chrono::seconds(20))) {
      FAIL("the guardian says nothing");
    }
    std::optional<base::Packet> packet = base::receive_packet(socket_.get());
    if (!packet) {
      return std::nullopt;
    }
    // Kept: QEMU ends when its monitor is closed.
    std::move(packet->fds.begin(), packet->fds.end(), std::back_inserter(fds_));
    return guardian::decode_reply(packet->bytes);
  }

  base::Child child_;
  base::UniqueFd socket_;
  std::vector<base::UniqueFd> fds_;
  std::vector<std::string> refused_;
};

/// A config in a folder with everything that a seal needs.
struct Sealing {
  Folder folder;
  std::string path = folder.write("vm.json", "{}");
  base::UniqueFd config = base::open_file(path, O_RDONLY);
  base::UniqueFd place = base::open_file(folder.path(), O_PATH | O_DIRECTORY);
  base::UniqueFd program = base::open_file(PROBE_PROGRAM, O_PATH);
  guardian::Seal seal{"vm.json", {}, true, {}};

  explicit Sealing(uid_t owner) {
    REQUIRE(::fchown(config.get(), owner, owner) == 0);
    seal.plan.name = own_vm();
    seal.plan.qemu.binary = PROBE_PROGRAM;
    seal.plan.qemu.arguments = {"ignore-powerdown"};
    seal.plan.qemu.dev.emplace();
    seal.plan.qemu.root.shared = {"/usr", "/bin", "/lib", "/lib64"};
    seal.plan.qemu.root.user_namespace = !is_root();
    seal.plan.deadlines.terminate = base::Milliseconds(1000);
    seal.plan.deadlines.kill = base::Milliseconds(1000);
  }
  [[nodiscard]] std::vector<int> fds() const { return {config.get(), place.get(), program.get()}; }
};

inline Identity person() {
  return {true, {"person", {kPerson, kPerson, {}}}, true};
}
inline Identity root_alone() {
  return {true, {"nobody", {1880000001, 1880000001, {}}}, false};
}

inline sandbox::Credentials uid(uid_t number) {
  return {number, number, {}};
}

}  // namespace vmlaunch::tests
