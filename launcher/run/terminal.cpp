#include "launcher/run/terminal.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "base/file.hpp"

namespace vmlaunch::launcher::run {

namespace {

/// A terminal or pipe has a new open file, non-blocking; anything else (a file, whose position must
/// be shared; a socket, which cannot be opened) a second descriptor of the same one.
base::UniqueFd open_anew(int fd, int access) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    return {};
  }
  if (S_ISCHR(info.st_mode) || S_ISFIFO(info.st_mode)) {
    base::UniqueFd anew(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(),
                               access | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (anew) {
      return anew;
    }
  }
  return base::duplicate(fd);
}

bool in_foreground() {
  return ::tcgetpgrp(STDIN_FILENO) == ::getpgrp();
}

}  // namespace

Terminal::Terminal()
    : input_(::isatty(STDIN_FILENO) == 1 && !in_foreground() ? base::UniqueFd()
                                                             : open_anew(STDIN_FILENO, O_RDONLY)),
      output_(open_anew(STDOUT_FILENO, O_WRONLY)) {}

void Terminal::give_keyboard() {
  termios mode{};
  if (::isatty(STDIN_FILENO) != 1 || !in_foreground() || ::tcgetattr(STDIN_FILENO, &mode) != 0) {
    return;
  }
  saved_ = mode;
  mode.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  mode.c_iflag &= ~static_cast<tcflag_t>(ICRNL);
  static_cast<void>(::tcsetattr(STDIN_FILENO, TCSANOW, &mode));
}

Terminal::~Terminal() {
  if (saved_) {
    static_cast<void>(::tcsetattr(STDIN_FILENO, TCSANOW, &*saved_));
  }
}

}  // namespace vmlaunch::launcher::run
