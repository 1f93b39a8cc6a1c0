#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

namespace vmlaunch::launcher {

/// What a run tells its caller. README.md lists them all; where several hold, the largest counts.
enum class ExitCode : int {
  ended = 0,              ///< the guest ended, the host is restored
  failed = 1,             ///< something failed, the host is restored
  usage = 2,              ///< command line or config
  not_running = 3,        ///< no such VM runs
  preflight = 10,         ///< refused before anything was changed
  device_busy = 11,       ///< somebody else has a device
  group_not_viable = 12,  ///< the host uses another device of an IOMMU group
  memory = 13,            ///< the guest's memory cannot be had as it was asked for
  qemu_did_not_start = 15,
  qemu_crashed = 16,
  guest_panicked = 17,
  had_to_kill = 18,        ///< the ladder had to kill, unasked
  needs_power_cycle = 19,  ///< a device did not come back from a guest
  host_not_restored = 20,
  held = 21,   ///< another run has the VM
  stuck = 22,  ///< QEMU or a kernel call does not return
};

[[nodiscard]] inline ExitCode worse(ExitCode a, ExitCode b) {
  return std::max(a, b);
}

/// Ends what was asked for with an exit code and a text for the person who asked.
class Failure : public std::runtime_error {
 public:
  Failure(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  [[nodiscard]] ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

}  // namespace vmlaunch::launcher
