#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "base/unique_fd.hpp"

namespace vmlaunch::base {

/// open(2) with O_CLOEXEC and O_NOCTTY added; throws with the path in the text.
[[nodiscard]] UniqueFd open_file(const std::string& path, int flags, unsigned mode = 0);

/// All bytes from the current position to the end. Throws EFBIG past `limit` bytes.
[[nodiscard]] std::string read_all(int fd, std::size_t limit, const std::string& name);

/// A whole small file, such as an attribute of /sys or /proc.
[[nodiscard]] std::string read_file(const std::string& path, std::size_t limit = 1 << 20);

/// Writes all of `bytes` to a blocking fd.
void write_all(int fd, std::string_view bytes, const std::string& name);

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

/// Close-on-exec at both ends.
[[nodiscard]] Pipe make_pipe();

/// A connected pair of AF_UNIX sockets, close-on-exec; `type` is SOCK_STREAM or SOCK_SEQPACKET.
[[nodiscard]] std::pair<UniqueFd, UniqueFd> make_socket_pair(int type);

/// A second, close-on-exec descriptor of the same open file.
[[nodiscard]] UniqueFd duplicate(int fd);

void set_nonblocking(int fd);

}  // namespace vmlaunch::base
