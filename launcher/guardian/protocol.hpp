#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/process.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/identity.hpp"
#include "launcher/plan/plan.hpp"
#include "launcher/wire.hpp"
#include "sandbox/call_watch.hpp"

/// What supervisor and guardian say to each other: one JSON object in each packet of a
/// SOCK_SEQPACKET pair. The supervisor asks, one request at a time; the guardian answers each and
/// reports QEMU's end when it happens. The guardian ends the connection at the first message that
/// is not exactly of this form.
namespace vmlaunch::launcher::guardian {

class ProtocolError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Takes the VM's name for this run and puts back what dead runs have left. Comes first, once, and
/// before the host is looked at: a plan holds only for a host without leftovers.
struct Begin {
  std::string vm;
  bool dry = false;  ///< only tell what this and the seal would come to; both change nothing
  bool force_tainted = false;  ///< devices that did not come back are used all the same
};

/// The plan, given once, for the VM that was begun, and before QEMU exists. Descriptors: the
/// config, its folder, then the program and the files that the supervisor could open itself, in the
/// order of `opened`.
struct Seal {
  std::string config_name;  ///< the config's name in its folder
  plan::Plan plan;          ///< name, placement, steps, files, qemu, deadlines; no more travels
  bool program_opened = false;
  std::vector<std::size_t> opened;  ///< indices into plan.files
};

/// Applies a step of the plan: all of them, each once and in their order, before Spawn.
struct Apply {
  std::size_t step = 0;
};

/// Starts QEMU, paused. Answered by Spawned with its descriptors: monitor, standard error, and the
/// serial port if the plan has one.
struct Spawn {};

/// QEMU's threads go where the plan has them: its vCPUs', by their numbers, to their CPUs, all
/// others to the rest. Only for a plan with a placement. Answered with StatusReply.
struct Schedule {
  std::vector<pid_t> vcpus;
  bool realtime = false;  ///< by the plan's policy; else, and again, as all other threads
};

/// QEMU answers, and the guest has not run yet. Answered with StatusReply.
struct Started {};

/// The interrupts of the guest's devices, as far as it has asked for them, go to its CPUs. Only
/// after Started, for a plan that keeps others off them. Answered with StatusReply.
struct PlaceInterrupts {};

/// A step that waits gives up. Answered with StatusReply, after the step.
struct Stop {};

/// Something is plugged in: until the phase is closed, and at most for plan::kHotplugLimit, QEMU
/// may make the system calls of its start again. Only after Started, for a plan with hotplug.
/// Answered with StatusReply.
struct FilterPhase {
  bool open = false;
};

/// USB devices of the host came or went: QEMU's nodes become those of what the plan's rules mean
/// now. Names no device, so that it can ask for none. Answered with StatusReply.
struct UsbChanged {};

/// The guest has rebooted and QEMU has ended, in a plan that starts it anew: what is each QEMU's
/// own is undone, devices are reset, and it is applied again. A Spawn may follow. Answer:
/// StatusReply.
struct Restart {};

/// Sends SIGTERM or SIGKILL to QEMU.
struct Signal {
  int signal = 0;
};

/// Answered with a pidfd of the guardian.
struct Status {};

/// Ends QEMU if it lives, undoes everything, and ends the guardian.
struct Undo {
  bool keep_files = true;  ///< false: the run never came to life, files made for it go too
};

using Request = std::variant<Begin,
                             Seal,
                             Apply,
                             Spawn,
                             Schedule,
                             Started,
                             PlaceInterrupts,
                             Stop,
                             FilterPhase,
                             UsbChanged,
                             Restart,
                             Signal,
                             Status,
                             Undo>;

/// What the guardian found in a file that it opened: facts that only root could read.
struct FileFacts {
  std::size_t index = 0;
  std::string head;  ///< the first bytes, for the recognition of image headers
};

struct Begun {
  std::vector<std::string>
      leftovers;  ///< lines on what earlier runs had left, and what became of it
};
struct Sealed {
  std::vector<FileFacts> files;
};
struct Applied {
  std::size_t step = 0;
};
struct Spawned {
  pid_t pid = -1;
};
struct Done {
  ExitCode code = ExitCode::ended;
  std::vector<std::string> leftovers;  ///< what could not be put back
  bool again = false;                  ///< `recover` may put it back
};
struct StatusReply {
  std::string state;  ///< "idle", "sealed", "running" or "ended"
  pid_t pid = -1;
};
struct Refused {
  ExitCode code = ExitCode::failed;
  std::string message;
};
/// Not an answer: QEMU ended.
struct Exited {
  base::ExitStatus status;
};
/// Not an answer: what the step that is being applied waits for, or how far it has come.
struct Waiting {
  std::string text;
};

/// Not an answer: QEMU made a system call that its plan does not allow.
struct CallRefused {
  std::string name;
  sandbox::RefusedCall what;
};

using Reply = std::variant<Begun,
                           Sealed,
                           Applied,
                           Spawned,
                           Done,
                           StatusReply,
                           Refused,
                           Exited,
                           Waiting,
                           CallRefused>;

[[nodiscard]] std::string encode(const Request& request);
[[nodiscard]] std::string encode(const Reply& reply);

/// Whom a guardian is for, when it is a program of its own. No name travels.
[[nodiscard]] std::string encode(const Identity& identity);
[[nodiscard]] Identity decode_identity(const std::string& bytes);

/// Throw ProtocolError for anything that is not a message of this protocol.
[[nodiscard]] Request decode_request(const std::string& bytes);
[[nodiscard]] Reply decode_reply(const std::string& bytes);

}  // namespace vmlaunch::launcher::guardian
