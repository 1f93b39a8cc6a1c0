#pragma once

#include <chrono>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/duration.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/identity.hpp"
#include "launcher/plan/memory.hpp"
#include "launcher/plan/passthrough.hpp"
#include "launcher/plan/placement.hpp"
#include "launcher/steps/step.hpp"
#include "launcher/survey/survey.hpp"
#include "sandbox/filter.hpp"

namespace vmlaunch::launcher::plan {

/// A file that the VM uses. Whoever has the right opens it, the supervisor as the user or the
/// guardian for a config of root's; QEMU gets the descriptor under a fixed number.
struct FileUse {
  enum class Access { read, read_write, append };
  enum class Create { never, empty, from_template };

  std::string purpose;  ///< for messages: "disk 0", "kernel"
  std::string path;
  Access access = Access::read;
  Create create = Create::never;
  std::string template_path = {};  ///< for Create::from_template
  int fd = -1;                     ///< the number in QEMU
  bool reopened = false;           ///< QEMU opens it by a name: its uid needs the right
  bool is_qcow2 = false;
  bool direct = false;                      ///< opened past the host's page cache (O_DIRECT)
  std::optional<std::string> backing = {};  ///< what the header of a qcow2 must name; else nothing

  bool operator==(const FileUse&) const = default;
};

/// The user that QEMU runs as.
struct QemuUser {
  std::string name;
  std::optional<sandbox::Credentials> credentials;  ///< nothing: a uid that nobody else has

  bool operator==(const QemuUser&) const = default;
};

/// A /dev of QEMU's own, beside what everybody may open. Its nodes are looked up when QEMU starts.
struct Dev {
  std::vector<std::string> nodes;         ///< "kvm", "vfio/vfio"
  std::vector<base::PciAddress> devices;  ///< the nodes of the IOMMU groups that they are in then
  std::vector<config::UsbRule> usb;       ///< the nodes of what they mean, whenever that changes

  bool operator==(const Dev&) const = default;
};

/// What QEMU sees of the host's files, beside its /dev and the files of the plan, and which of the
/// host's namespaces it is in.
struct Root {
  bool whole_host = false;               ///< all files, under their own names
  std::vector<std::string> shared = {};  ///< to read, where the host has them
  std::vector<std::string> hidden = {};  ///< folders of those that are empty for QEMU
  bool network = false;                  ///< the host's; else none
  bool user_namespace = false;           ///< what a user needs for all of this

  bool operator==(const Root&) const = default;
};

/// Which system calls QEMU may make.
struct Calls {
  config::Sandbox mode = config::Sandbox::on;
  std::set<std::string> sections;  ///< of the policy, beside the one that holds for all

  bool operator==(const Calls&) const = default;
};

struct Qemu {
  std::string binary;
  std::vector<std::string> arguments;  ///< without the program's name
  std::vector<std::string> environment;
  QemuUser user;
  std::optional<Dev> dev = {};  ///< nothing: it sees the host's /dev
  Root root = {};
  Calls calls = {};
  std::set<config::Hotplug> hotplug = {};  ///< for it, the calls of the start for a while again
  bool serial_stdio = false;               ///< the serial port is on descriptor kSerialFd
  /// What QEMU may lock in memory: devices reach the guest's memory only where it is pinned.
  /// Nothing: as it is.
  std::optional<base::ByteSize> memlock = {};

  bool operator==(const Qemu&) const = default;
};

/// The longest that each wait may take.
struct Deadlines {
  base::Milliseconds handshake{30000};
  base::Milliseconds reply{10000};
  base::Milliseconds powerdown{60000};        ///< for the guest to end after the power button
  base::Milliseconds powerdown_again{10000};  ///< the button is pressed again: it may get lost
  base::Milliseconds quit{5000};
  base::Milliseconds terminate{5000};
  base::Milliseconds kill{10000};

  bool operator==(const Deadlines&) const = default;
};

/// Everything that a run will do. Made from config and survey alone: same input, same plan.
struct Plan {
  std::string name;
  std::string accel;  ///< "kvm" or "tcg"
  std::vector<std::string> warnings;
  Passthrough passthrough;
  Memory memory;
  Placement placement;
  std::vector<std::string> tuning;  ///< what makes the guest fast, and what takes it away again
  std::vector<steps::Step> steps;   ///< changes of the host, in their order; QEMU's start follows
  std::vector<FileUse> files;
  Qemu qemu;
  Deadlines deadlines;
  bool restarts = false;  ///< a guest that reboots gets a QEMU of its own

  bool operator==(const Plan&) const = default;
};

/// The longest that QEMU's system calls are those of its start again.
constexpr std::chrono::seconds kHotplugLimit{10};

/// Descriptors in QEMU; files follow from kFirstFileFd up.
constexpr int kQmpFd = 3;
constexpr int kSerialFd = 4;
constexpr int kFirstFileFd = 10;

/// What those calls come to; not for mode off.
[[nodiscard]] sandbox::Filter filter_of(const Calls& calls);

/// The name of a file that QEMU opens by name, in its root folder.
[[nodiscard]] inline std::string name_in_root(int fd) {
  return "/vm/" + std::to_string(fd);
}

/// Throws Failure (preflight) for what the config asks and host or rights refuse.
[[nodiscard]] Plan make_plan(const config::VmSpec& spec,
                             const survey::Survey& survey,
                             const Identity& identity,
                             Authority authority);

/// For people: every change and every file, the exact command, the deadlines.
[[nodiscard]] std::string to_text(const Plan& plan);

/// For programs.
[[nodiscard]] config::Json to_json(const Plan& plan);

/// How each of the cards is reset, going by sysfs, for programs.
[[nodiscard]] config::Json resets_json(const std::vector<Card>& cards);

[[nodiscard]] const char* to_string(FileUse::Access access);
[[nodiscard]] const char* to_string(FileUse::Create create);

}  // namespace vmlaunch::launcher::plan
