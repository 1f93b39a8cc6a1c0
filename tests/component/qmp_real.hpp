#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <csignal>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/unique_fd.hpp"
#include "qmp/client.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/loop.hpp"
#include "tests/support/program.hpp"
#include "tests/support/real_qemu.hpp"

namespace vmlaunch::qmp::tests {

/// A QEMU and a client on its monitor.
class Conversation : public Loop {
 public:
  explicit Conversation(const vmlaunch::tests::QemuSetup& setup = {}, Start how = Start::greeting)
      : qemu(setup) {
    client.emplace(context, qemu.take_monitor(), how);
    client->on_event([this](const Event& event) { events.push_back(event.name); });
    client->on_close([this](const CloseReason& reason) { closes.push_back(reason); });
  }

  Greeting shake_hands() { return finish(start(client->handshake(kLong))); }

  std::shared_ptr<Outcome<Json>> send(const std::string& command, Json arguments = nullptr) {
    return start(client->execute(command, std::move(arguments), kLong));
  }

  /// The value, or what execute() throws.
  Json execute(const std::string& command, Json arguments = nullptr) {
    return finish(send(command, std::move(arguments)));
  }

  vmlaunch::tests::RealQemu qemu;
  std::optional<Client> client;
  std::vector<std::string> events;
  std::vector<CloseReason> closes;
};

/// A file that QEMU's main loop hangs at when it opens it, until the test lets it go on. After 45 s
/// (/proc/sys/fs/lease-break-time) the kernel does so by itself.
class Blockade {
 public:
  Blockade() {
    // In place of SIGIO, which would end the test.
    base::check(::fcntl(file_.get(), F_SETSIG, SIGURG), "choose a signal");
    base::check(::fcntl(file_.get(), F_SETLEASE, F_WRLCK), "take a lease on a file");
  }

  /// The arguments of the blockdev-add that hangs, and then succeeds.
  [[nodiscard]] Json node() const {
    return {{"driver", "file"}, {"filename", path_}, {"node-name", "blocked"}};
  }

  /// Whether QEMU has come to it.
  [[nodiscard]] bool is_reached() const { return ::fcntl(file_.get(), F_GETLEASE) != F_WRLCK; }

  void lift() { base::check(::fcntl(file_.get(), F_SETLEASE, F_UNLCK), "give a lease back"); }

 private:
  vmlaunch::tests::Folder folder_;
  std::string path_ = folder_.write("blockade", std::string(4096, ' '));
  base::UniqueFd file_ = base::open_file(path_, O_RDWR);
};

/// Stops QEMU with all its threads; SIGCONT lets it go on.
inline void freeze(vmlaunch::tests::RealQemu& qemu) {
  qemu.signal(SIGSTOP);
  REQUIRE(vmlaunch::tests::eventually([&] {
    siginfo_t info{};
    const auto id = static_cast<id_t>(qemu.pidfd());
    return ::waitid(P_PIDFD, id, &info, WSTOPPED | WNOHANG) == 0 && info.si_pid != 0;
  }));
}

/// So that a long command goes out in parts while QEMU does not read.
inline void make_send_buffer_small(int socket) {
  const int small = 4096;
  base::check(::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &small, sizeof small),
              "make the buffer of a socket small");
}

/// For a QEMU that is to crash.
inline void forbid_core_dump(const vmlaunch::tests::RealQemu& qemu) {
  const rlimit none{0, 0};
  REQUIRE(::prlimit(qemu.pid(), RLIMIT_CORE, &none, nullptr) == 0);
}

/// The command by which QEMU says a number, its arguments, and the answer.
constexpr const char* kSay = "human-monitor-command";
inline Json say(int number) {
  return {{"command-line", "print/d " + std::to_string(number)}};
}
inline Json said(int number) {
  return std::to_string(number) + "\r\n";
}

/// What `call` throws.
template <typename Exception, typename Call>
Exception thrown_by(const Call& call) {
  try {
    static_cast<void>(call());
  } catch (const Exception& exception) {
    return exception;
  }
  throw std::logic_error("Nothing was thrown");
}

}  // namespace vmlaunch::qmp::tests
