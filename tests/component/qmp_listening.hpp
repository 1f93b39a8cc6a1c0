#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/awaitable.hpp>

#include "base/process.hpp"
#include "base/unique_fd.hpp"
#include "qmp/client.hpp"
#include "qmp/transport.hpp"
#include "tests/support/loop.hpp"
#include "tests/support/program.hpp"
#include "tests/support/real_qemu.hpp"

namespace vmlaunch::qmp::tests {

/// One of the clients that come to a QEMU, and what it hears.
struct Visitor {
  Visitor(asio::io_context& context, base::UniqueFd socket, Start start = Start::greeting)
      : fd(socket.get()), client(context, std::move(socket), start) {
    client.on_event([this](const Event& event) { events.push_back(event.name); });
    client.on_close([this](const CloseReason& reason) { closes.push_back(reason); });
  }

  /// Waits for what the client has not read yet.
  [[nodiscard]] bool hears_from_qemu() const {
    return base::wait_readable(fd, Clock::now() + kLong);
  }

  int fd;  // the client's
  Client client;
  std::vector<std::string> events;
  std::vector<CloseReason> closes;
};

inline asio::awaitable<std::shared_ptr<Visitor>> visit(asio::io_context& context,
                                                       std::string path,
                                                       std::chrono::milliseconds deadline) {
  auto socket = co_await connect(context, path, deadline);
  co_return std::make_shared<Visitor>(context, std::move(socket));
}

/// A QEMU that listens at a path, for one client after the other.
class Listening : public Loop {
 public:
  explicit Listening(std::vector<std::string> arguments = {"-machine", "none"})
      : qemu({std::move(arguments), path}) {}

  /// A connection that stands, which QEMU need not have accepted yet.
  std::shared_ptr<Visitor> dial(std::chrono::milliseconds deadline = kLong) {
    return finish(start(visit(context, path, deadline)));
  }

  Greeting shake_hands(Visitor& visitor) { return finish(start(visitor.client.handshake(kLong))); }

  std::shared_ptr<Visitor> greeted() {
    auto visitor = dial();
    shake_hands(*visitor);
    return visitor;
  }

  std::shared_ptr<Outcome<Json>> send(Visitor& visitor,
                                      const std::string& command,
                                      Json arguments = nullptr) {
    return start(visitor.client.execute(command, std::move(arguments), kLong));
  }

  Json execute(Visitor& visitor, const std::string& command, Json arguments = nullptr) {
    return finish(send(visitor, command, std::move(arguments)));
  }

  vmlaunch::tests::Folder folder;
  std::string path = folder.file("qmp");
  vmlaunch::tests::RealQemu qemu;
};

}  // namespace vmlaunch::qmp::tests
