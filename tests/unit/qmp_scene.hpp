#pragma once

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/error.hpp>
#include <boost/system/system_error.hpp>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "qmp/client.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/loop.hpp"

namespace vmlaunch::qmp::tests {

using Kind = CloseReason::Kind;
using Cause = HandshakeError::Cause;

constexpr auto kShort = 20ms;

constexpr const char* kGreeting =
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
    "\"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n";
constexpr const char* kPlainGreeting =  // of a monitor without an out-of-band band
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, "
    "\"package\": \"\"}, \"capabilities\": []}}\r\n";
constexpr const char* kErrorWithoutId =
    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Bad JSON\"}}\r\n";
constexpr const char* kStaleReply = "{\"return\": {}, \"id\": 1}\r\n";

inline std::string event(const std::string& name) {
  return "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"" + name + "\"}\r\n";
}

inline std::string id_of(const std::string& line) {
  return Json::parse(line).at("id").dump();
}

inline std::string answer(const std::string& line, const std::string& value = "{}") {
  return "{\"return\": " + value + ", \"id\": " + id_of(line) + "}\r\n";
}

inline std::string refusal(const std::string& line, const std::string& error_class) {
  return "{\"id\": " + id_of(line) + ", \"error\": {\"class\": \"" + error_class +
         "\", \"desc\": \"No\"}}\r\n";
}

/// A client and, at the other end of its socket, a QEMU that the test plays line by line.
class Scene : public Loop {
 public:
  explicit Scene(Start start = Start::greeting) {
    auto [ours, theirs] = base::make_socket_pair(SOCK_STREAM);
    peer = std::move(theirs);
    base::set_nonblocking(peer.get());
    client.emplace(context, std::move(ours), start);
    client->on_event([this](const Event& received) { events.push_back(received.name); });
    client->on_close([this](const CloseReason& reason) { closes.push_back(reason); });
  }

  std::shared_ptr<Outcome<Json>> execute(const std::string& command,
                                         std::chrono::milliseconds deadline = kLong) {
    return start(client->execute(command, nullptr, deadline));
  }

  void until_closed() {
    until([this] { return !closes.empty(); });
  }

  void send(std::string_view bytes) {
    if (budget) {
      bytes = bytes.substr(0, *budget);
      *budget -= bytes.size();
    }
    if (split && sent < *split && *split < sent + bytes.size()) {
      const std::size_t first = *split - sent;
      put(bytes.substr(0, first));
      settle();
      bytes.remove_prefix(first);
    }
    put(bytes);
  }

  /// The next line that the client sends.
  std::string line() {
    until([this] { return read_some() || received_.find('\n') != std::string::npos; });
    const std::size_t length = received_.find('\n') + 1;
    std::string text = received_.substr(0, length);
    received_.erase(0, length);
    return text;
  }

  /// The same, read in one piece, with the descriptors that came with it.
  std::pair<std::string, std::vector<base::UniqueFd>> line_with_fds() {
    settle();
    std::array<char, 4096> buffer{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> control{};
    iovec bytes{buffer.data(), buffer.size()};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(peer.get(), &message, MSG_CMSG_CLOEXEC);
    REQUIRE(got > 0);
    std::vector<base::UniqueFd> fds;
    if (const cmsghdr* header = CMSG_FIRSTHDR(&message)) {
      const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
        fds.emplace_back(fd);
      }
    }
    return {std::string(buffer.data(), static_cast<std::size_t>(got)), std::move(fds)};
  }

  std::string nothing_more() {
    settle();
    static_cast<void>(read_some());
    return received_;
  }

  Greeting shake_hands(const char* words = kGreeting) {
    const auto greeting = start(client->handshake(kLong));
    send(words);
    send(answer(line()));
    return finish(greeting);
  }

  base::UniqueFd peer;
  std::optional<Client> client;
  std::vector<std::string> events;
  std::vector<CloseReason> closes;
  std::optional<std::size_t> budget;  // bytes that the peer can send before it dies
  std::optional<std::size_t> split;   // after so many of them the client is let read
  std::size_t sent = 0;

 private:
  void put(std::string_view bytes) {
    REQUIRE(::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
            static_cast<ssize_t>(bytes.size()));
    sent += bytes.size();
  }

  // True once a whole line is there.
  bool read_some() {
    std::array<char, 65536> buffer{};
    for (;;) {
      const ssize_t got = ::recv(peer.get(), buffer.data(), buffer.size(), 0);
      if (got <= 0) {
        return received_.find('\n') != std::string::npos;
      }
      received_.append(buffer.data(), static_cast<std::size_t>(got));
    }
  }

  std::string received_;
};

/// How a command ends that gets no answer in time.
inline Timeout timeout_of(Scene& scene, const std::shared_ptr<Outcome<Json>>& call) {
  scene.until([&] { return call->done; });
  try {
    static_cast<void>(call->get());
  } catch (const Timeout& error) {
    return error;
  }
  throw std::runtime_error("It was answered");
}

}  // namespace vmlaunch::qmp::tests
