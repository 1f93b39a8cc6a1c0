#include "launcher/guardian/guardian.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "base/errors.hpp"
#include "launcher/cli/verbs.hpp"
#include "launcher/guardian/protocol.hpp"
#include "launcher/run/rescuer.hpp"

namespace vmlaunch::launcher::cli {

namespace {

/// Standard input as the control socket. Only who has our rights already may give orders: with sudo
/// anybody could hand us a socket of their own.
base::UniqueFd take_control_socket() {
  int type = 0;
  ucred peer{};
  socklen_t type_size = sizeof type;
  socklen_t peer_size = sizeof peer;
  if (::getsockopt(STDIN_FILENO, SOL_SOCKET, SO_TYPE, &type, &type_size) != 0 ||
      type != SOCK_SEQPACKET ||
      ::getsockopt(STDIN_FILENO, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) != 0 ||
      peer.uid != ::geteuid()) {
    throw Failure(ExitCode::usage,
                  "Cannot be a guardian: standard input is no control socket of this user's; a run "
                  "starts its guardian itself");
  }
  return base::UniqueFd(base::check(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1),
                                    "take the control socket"));
}

ExitCode be_guardian(const std::string& identity) {
  try {
    return static_cast<ExitCode>(guardian::run(
        take_control_socket(), guardian::decode_identity(identity), run::run_rescuer));
  } catch (const guardian::ProtocolError& error) {
    throw Failure(ExitCode::usage, std::string("Cannot be a guardian: ") + error.what());
  }
}

}  // namespace

void add_guardian(CLI::App& app, Choice& choice) {
  CLI::App* verb = app.add_subcommand(guardian::kVerb, "");
  verb->group("");  // systemd types it, nobody else
  auto identity = std::make_shared<std::string>();
  verb->add_option("IDENTITY", *identity)->required();
  verb->callback(
      [&choice, identity] { choice.command = [identity] { return be_guardian(*identity); }; });
}

}  // namespace vmlaunch::launcher::cli
