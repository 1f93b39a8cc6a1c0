#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "qmp/client.hpp"
#include "tests/support/loop.hpp"
#include "tests/support/real_qemu.hpp"

namespace vmlaunch::qmp::tests {

/// A QEMU and a client on its monitor.
class Conversation : public Loop {
 public:
  explicit Conversation(const vmlaunch::tests::QemuSetup& setup = {}) : qemu(setup) {
    client.emplace(context, qemu.take_monitor());
    client->on_event([this](const Event& event) { events.push_back(event.name); });
    client->on_close([this](const CloseReason& reason) { closes.push_back(reason); });
  }

  Greeting shake_hands() { return finish(start(client->handshake(kLong))); }

  /// The value, or what execute() throws.
  Json execute(const std::string& command, Json arguments = nullptr) {
    return finish(start(client->execute(command, std::move(arguments), kLong)));
  }

  vmlaunch::tests::RealQemu qemu;
  std::optional<Client> client;
  std::vector<std::string> events;
  std::vector<CloseReason> closes;
};

}  // namespace vmlaunch::qmp::tests
