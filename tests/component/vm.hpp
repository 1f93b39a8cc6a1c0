#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/program.hpp"

namespace vmlaunch::tests {

using Json = nlohmann::json;

/// A config that runs the probe in QEMU's place; `words` tell it how to behave.
[[nodiscard]] Json probe_config(const std::vector<std::string>& words = {});

/// A config of a real QEMU with nothing to boot: its firmware waits for ever and hears no power
/// button.
[[nodiscard]] Json idle_config();

/// A config of a real QEMU that powers off by itself as soon as its firmware has started the disk.
/// Writes the disk into `folder`.
[[nodiscard]] Json brief_config(const Folder& folder);

/// A config of the demo guest with `words` on its kernel command line.
[[nodiscard]] Json guest_config(const std::string& words);

/// `vmlaunch ARGUMENTS…`
[[nodiscard]] Launch command_of(const std::vector<std::string>& arguments);

/// Writes the config as `name` and gives the launch of `vmlaunch run` with it.
[[nodiscard]] Launch run_of(const Folder& folder,
                            const Json& config,
                            const std::string& name = "vm.json");

/// What the kernel says of a process: "status" by field, "fds" by number, "environment",
/// "namespaces" by kind, "mounts" (options by mount point), "core" (the limit of its dumps) and
/// "session_leader".
[[nodiscard]] Json facts_of(pid_t pid);

/// QEMU's process number as vmlaunch told it, and the guardian's: the run's only child, or QEMU's
/// parent. Throws when there is none: signals go to them.
[[nodiscard]] pid_t qemu_pid(const Program& program);
[[nodiscard]] pid_t guardian_pid(const Program& program);

[[nodiscard]] bool is_root();

}  // namespace vmlaunch::tests
