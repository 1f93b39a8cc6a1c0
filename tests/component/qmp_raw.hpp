#pragma once

#include <sys/socket.h>

#include <array>
#include <chrono>
#include <string>
#include <string_view>
#include <utility>

#include "base/process.hpp"
#include "base/unique_fd.hpp"
#include "qmp/encoding.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/loop.hpp"

namespace vmlaunch::qmp::tests {

/// A monitor that a test speaks to without a client: shows what QEMU does by itself.
class RawMonitor {
 public:
  explicit RawMonitor(base::UniqueFd socket) : socket_(std::move(socket)) {}

  void send(std::string_view bytes) {
    REQUIRE(::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
  }

  void send_command(const std::string& name, const Json& arguments, Id id) {
    send(encode_command(name, arguments, id));
  }

  /// The next message; null if none comes in time.
  Json message(std::chrono::milliseconds limit = kLong) {
    const auto deadline = Clock::now() + limit;
    while (received_.find('\n') == std::string::npos) {
      if (!base::wait_readable(socket_.get(), deadline)) {
        return nullptr;
      }
      std::array<char, 65536> buffer{};
      const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      REQUIRE(got > 0);
      received_.append(buffer.data(), static_cast<std::size_t>(got));
    }
    const std::size_t length = received_.find('\n') + 1;
    Json message = Json::parse(received_.substr(0, length));
    received_.erase(0, length);
    return message;
  }

  void negotiate() {
    REQUIRE(message().contains("QMP"));
    send_command("qmp_capabilities", {{"enable", {"oob"}}}, 1);
    REQUIRE(message().contains("return"));
  }

 private:
  base::UniqueFd socket_;
  std::string received_;
};

}  // namespace vmlaunch::qmp::tests
