#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.hpp"

namespace vmlaunch::base {

/// One message of a SOCK_SEQPACKET socket with the descriptors that came with it.
struct Packet {
  std::string bytes;
  std::vector<UniqueFd> fds;
};

constexpr std::size_t kPacketLimit = std::size_t{128} * 1024;
constexpr std::size_t kPacketFdLimit = 200;

/// Sends one packet and copies of `fds`. Throws EMSGSIZE past the limits and EPIPE when the peer is
/// gone (no SIGPIPE is raised).
void send_packet(int socket, std::string_view bytes, const std::vector<int>& fds = {});

/// Receives one packet; nothing when the peer has closed. Received descriptors are close-on-exec.
/// A packet that was cut by the limits throws EMSGSIZE: its descriptors are closed.
[[nodiscard]] std::optional<Packet> receive_packet(int socket);

}  // namespace vmlaunch::base
