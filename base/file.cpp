#include "base/file.hpp"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "base/errors.hpp"

namespace vmlaunch::base {

UniqueFd open_file(const std::string& path, int flags, unsigned mode) {
  return UniqueFd(check(::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY, mode), "open " + path));
}

std::string read_all(int fd, std::size_t limit, const std::string& name) {
  std::string content;
  std::array<char, 16384> buffer{};
  for (;;) {
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) {
      continue;
    }
    check(got, "read " + name);
    if (got == 0) {
      return content;
    }
    content.append(buffer.data(), static_cast<std::size_t>(got));
    if (content.size() > limit) {
      throw_errno(EFBIG, "read " + name);
    }
  }
}

std::string read_file(const std::string& path, std::size_t limit) {
  const UniqueFd fd = open_file(path, O_RDONLY);
  return read_all(fd.get(), limit, path);
}

void write_all(int fd, std::string_view bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    check(written, "write " + name);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

Pipe make_pipe() {
  std::array<int, 2> ends{};
  check(::pipe2(ends.data(), O_CLOEXEC), "make a pipe");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::pair<UniqueFd, UniqueFd> make_socket_pair(int type) {
  std::array<int, 2> ends{};
  check(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()), "make a socket pair");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

UniqueFd duplicate(int fd) {
  return UniqueFd(check(::fcntl(fd, F_DUPFD_CLOEXEC, 3), "duplicate a file descriptor"));
}

void set_nonblocking(int fd) {
  const int flags = check(::fcntl(fd, F_GETFL), "read a descriptor's flags");
  check(::fcntl(fd, F_SETFL, flags | O_NONBLOCK), "make a descriptor non-blocking");
}

}  // namespace vmlaunch::base
