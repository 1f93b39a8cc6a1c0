#pragma once

#include <optional>
#include <string>
#include <utility>

#include "qmp/client.hpp"
#include "qmp/transport.hpp"
#include "tests/support/loop.hpp"
#include "tests/support/program.hpp"
#include "tests/support/real_qemu.hpp"

namespace vmlaunch::qmp::tests {

/// A QEMU whose monitor listens at a path, and one client after the other.
class ByPath : public Loop {
 public:
  ByPath() { reconnect(); }

  /// Leaves, and comes again as another client.
  void reconnect() {
    client.reset();
    finish(start(reach(*this)));
  }

  Json execute(const std::string& command, Json arguments = nullptr) {
    return finish(start(client->execute(command, std::move(arguments), kLong)));
  }

  vmlaunch::tests::Folder folder;
  vmlaunch::tests::RealQemu qemu{{{"-machine", "none"}, folder.file("qmp")}};
  std::optional<Client> client;

 private:
  static asio::awaitable<Greeting> reach(ByPath& self) {
    base::UniqueFd socket = co_await connect(self.context, self.folder.file("qmp"), kLong);
    self.client.emplace(self.context, std::move(socket));
    co_return co_await self.client->handshake(kLong);
  }
};

}  // namespace vmlaunch::qmp::tests
