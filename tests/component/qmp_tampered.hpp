#pragma once

#include <string>
#include <utility>

#include "base/file.hpp"
#include "base/unique_fd.hpp"
#include "qmp/client.hpp"
#include "tests/component/qmp_raw.hpp"
#include "tests/support/loop.hpp"
#include "tests/support/real_qemu.hpp"

namespace vmlaunch::qmp::tests {

/// A client, and a copy of its socket by which a test does what no client does.
struct Tampered : Loop {
  explicit Tampered(const vmlaunch::tests::QemuSetup& setup = {}, Start start = Start::greeting)
      : qemu(setup),
        socket(qemu.take_monitor()),
        raw(base::duplicate(socket.get())),
        client(context, base::duplicate(socket.get()), start) {}

  void shake_hands() { finish(start(client.handshake(kLong))); }

  Json execute(const std::string& command, Json arguments = nullptr) {
    return finish(start(client.execute(command, std::move(arguments), kLong)));
  }

  vmlaunch::tests::RealQemu qemu;
  base::UniqueFd socket;
  RawMonitor raw;
  Client client;
};

}  // namespace vmlaunch::qmp::tests
