#include "launcher/guardian/detach.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher::guardian {

using base::check;

namespace {

void replace_standard_streams() {
  const base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
  check(::dup2(null.get(), STDIN_FILENO), "detach from standard input");
  check(::dup2(null.get(), STDOUT_FILENO), "detach from standard output");
}

/// Leaves nothing of what was inherited but standard error and the control socket.
base::UniqueFd close_all_but(base::UniqueFd control) {
  constexpr int kControl = STDERR_FILENO + 1;
  base::UniqueFd placed = std::move(control);
  if (placed.get() != kControl) {
    const int moved = check(::dup3(placed.get(), kControl, O_CLOEXEC), "keep the control socket");
    placed.reset(moved);
  }
  check(::syscall(SYS_close_range, kControl + 1U, ~0U, 0U), "close inherited descriptors");
  return placed;
}

}  // namespace

base::UniqueFd detach(base::UniqueFd control) {
  if (::getsid(0) != ::getpid()) {
    check(::setsid(), "start a session of the guardian's own");
  }
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE}) {
    static_cast<void>(std::signal(signal, SIG_IGN));
  }
  sigset_t none;
  ::sigemptyset(&none);
  check(::sigprocmask(SIG_SETMASK, &none, nullptr), "clear the signal mask");
  replace_standard_streams();
  check(::chdir("/"), "leave the folder");
  check(::prctl(PR_SET_NAME, "vmlaunch-guard", 0, 0, 0), "take a name");
  sandbox::forbid_tracing();
  return close_all_but(std::move(control));
}

}  // namespace vmlaunch::launcher::guardian
