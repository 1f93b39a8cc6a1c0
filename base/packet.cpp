#include "base/packet.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "base/errors.hpp"

namespace vmlaunch::base {

void send_packet(int socket, std::string_view bytes, const std::vector<int>& fds) {
  if (bytes.empty()) {
    throw_errno(EINVAL, "send an empty packet: it would mean the end");
  }
  if (bytes.size() > kPacketLimit || fds.size() > kPacketFdLimit) {
    throw_errno(EMSGSIZE, "send a packet");
  }
  std::string copy(bytes);
  iovec data{copy.data(), copy.size()};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  check(sent, "send a packet");
}

std::optional<Packet> receive_packet(int socket) {
  Packet packet;
  packet.bytes.resize(kPacketLimit);
  iovec data{packet.bytes.data(), packet.bytes.size()};
  std::vector<char> control(CMSG_SPACE(kPacketFdLimit * sizeof(int)));
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  // A peer that died with unread data of ours makes the kernel report a reset: it is gone too.
  if (got < 0 && errno == ECONNRESET) {
    return std::nullopt;
  }
  check(got, "receive a packet");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
      const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      std::vector<int> numbers(count);
      std::memcpy(numbers.data(), CMSG_DATA(header), count * sizeof(int));
      for (const int number : numbers) {
        packet.fds.emplace_back(number);
      }
    }
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    throw_errno(EMSGSIZE, "receive a packet");
  }
  if (got == 0) {
    return std::nullopt;
  }
  packet.bytes.resize(static_cast<std::size_t>(got));
  return packet;
}

}  // namespace vmlaunch::base
