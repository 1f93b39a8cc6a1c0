#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/guardian/plan_file.hpp"
#include "launcher/guardian/protocol.hpp"
#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::run {

/// A config that was opened once: what is read from it, and where it was found.
struct OpenConfig {
  std::string path;  ///< absolute
  std::string name;  ///< in its folder
  base::UniqueFd file;
  base::UniqueFd folder;
};

/// Throws Failure: usage for what cannot be a config (a folder, a FIFO, a file over 1 MiB),
/// preflight for what is missing or not permitted.
[[nodiscard]] OpenConfig open_config(const std::string& path);

/// Reads it. Throws ConfigError.
[[nodiscard]] config::VmSpec load_config(const OpenConfig& config);

/// A VM and everything that follows from it and from the host as it is now, without any effect.
struct Prepared {
  config::VmSpec spec;
  plan::Plan plan;
};

/// What of the host only the caller can tell, before it gives up root's rights.
struct Known {
  std::map<base::PciAddress, std::string> had;      ///< devices of running VMs, from their locks
  std::map<config::UsbRule, std::string> usb_had;   ///< the same for rules about USB devices
  std::map<unsigned, std::string> cpus_had;         ///< the same for CPUs
  std::map<base::PciAddress, std::string> tainted;  ///< devices that did not come back from a guest
  bool guardian_unit = false;                   ///< the guardian is a unit of systemd, or would be
  std::optional<std::set<std::string>> hyperv;  ///< as in survey/hyperv.hpp
};

/// The locks are only root's to read, and KVM its group's.
[[nodiscard]] Known find_known(bool guardian_unit);

[[nodiscard]] Prepared prepare(config::VmSpec spec,
                               const Identity& identity,
                               Authority authority,
                               Known known);

/// The plan's files and program as far as this process may open them.
struct OpenFiles {
  base::UniqueFd program;                 ///< empty: the guardian must open it
  std::vector<guardian::OpenFile> files;  ///< as in the plan; an empty one likewise
};

/// Whether files that the plan says to make are made, or only looked at whether they could be: then
/// they count as made, without a descriptor.
enum class Making { done, pretended };

/// Opens everything before anything is made. With root's authority what this process has no right
/// to is left to the guardian; else it is an error. All problems are in one Failure.
[[nodiscard]] OpenFiles open_files(const plan::Plan& plan,
                                   Authority authority,
                                   Making making = Making::done);

/// The sealing of a plan: descriptors of what was opened, in the protocol's order, beside it.
struct Sealing {
  guardian::Seal request;
  std::vector<int> fds;
};

/// What was only pretended to be made is left out.
[[nodiscard]] Sealing sealing_of(const OpenConfig& config,
                                 const plan::Plan& plan,
                                 const OpenFiles& opened);

/// Refuses, by what the guardian found in the files that only it could open.
void check_facts(const plan::Plan& plan, const guardian::Sealed& sealed);

/// Refuses a qcow2 image whose header names another image beneath it than the plan: QEMU is told
/// which one it is, and a guest can write any name there. `head` is the file's first bytes.
void check_image(const plan::FileUse& file, const std::string& head);

}  // namespace vmlaunch::launcher::run
