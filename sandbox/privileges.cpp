#include "sandbox/privileges.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include <cap-ng.h>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"

namespace vmlaunch::sandbox {

namespace {

using base::check;

constexpr std::size_t kMostStatus = 65536;

/// The library remembers the thread that first used it, also across clone; so it is told anew.
/// Returns whether the bounding set may be changed.
bool read_own_capabilities() {
  ::capng_setpid(::gettid());
  check(::capng_get_caps_process(), "read the capabilities");
  return ::capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP) != 0;
}

void add(capng_type_t set, const Capabilities& capabilities) {
  for (const int capability : capabilities) {
    check(::capng_update(CAPNG_ADD, set, static_cast<unsigned>(capability)),
          "choose the capabilities to keep");
  }
}

void apply(capng_select_t which) {
  const int result = ::capng_apply(which);
  if (result != 0) {
    base::throw_errno("give up capabilities (step " + std::to_string(-result) + ")");
  }
}

/// By the system call itself: the library reads /proc first, which may be out of sight by now.
/// False for want of CAP_SETPCAP.
bool clear_bounding_set() {
  for (int capability = 0;; ++capability) {
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      if (errno != EINVAL && errno != EPERM) {
        base::throw_errno("empty the bounding set");
      }
      return errno == EINVAL;  // past the last that there is
    }
  }
}

/// Uid 0 means nothing with them, and no capability outlives a change of uid or a new program.
constexpr unsigned kSecurebits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                 SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                 SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

void drop_capabilities() {
  ::capng_setpid(::gettid());
  ::capng_clear(CAPNG_SELECT_CAPS);
  apply(CAPNG_SELECT_CAPS);
}

void change_ids(const Credentials& who) {
  check(::setgroups(who.groups.size(), who.groups.data()), "set the supplementary groups");
  check(::setresgid(who.gid, who.gid, who.gid), "change to gid " + std::to_string(who.gid));
  check(::setresuid(who.uid, who.uid, who.uid), "change to uid " + std::to_string(who.uid));
}

void prove_no_way_back() {
  if (::setuid(0) == 0 || ::setresuid(static_cast<uid_t>(-1), 0, static_cast<uid_t>(-1)) == 0) {
    base::throw_errno(EPERM, "give up root: it could be had again");
  }
}

/// "Uid: 1 1 1 1", as /proc/PID/status has it.
std::string line(const std::string& name, const std::vector<std::string>& values) {
  return "\n" + name + ":\t" + base::join(values, "\t") + "\n";
}

}  // namespace

Proof::Proof() : status_(base::open_file("/proc/self/status", O_RDONLY)) {}

void Proof::set_aside(int least_fd) {
  base::UniqueFd moved(
      check(::fcntl(status_.get(), F_DUPFD_CLOEXEC, least_fd), "set a descriptor aside"));
  status_ = std::move(moved);
}

void Proof::require_lines(const std::vector<std::string>& lines) const {
  check(::lseek(status_.get(), 0, SEEK_SET), "read what we are");
  const std::string status = base::read_all(status_.get(), kMostStatus, "what we are");
  for (const std::string& wanted : lines) {
    if (status.find(wanted) == std::string::npos) {
      base::throw_errno(EPERM, "give up every right: the kernel does not say" + wanted);
    }
  }
}

void Proof::require(const Credentials& who, bool for_good) const {
  const std::string uid = std::to_string(who.uid);
  const std::string gid = std::to_string(who.gid);
  const std::string none(16, '0');
  std::vector<std::string> lines = {line("Uid", {uid, uid, uid, uid}),
                                    line("Gid", {gid, gid, gid, gid}),
                                    line("NoNewPrivs", {"1"})};
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"}) {
    lines.push_back(line(set, {none}));
  }
  if (for_good) {
    lines.push_back(line("CapBnd", {none}));
  }
  require_lines(lines);
  const int bits = check(::prctl(PR_GET_SECUREBITS, 0, 0, 0, 0), "read the securebits");
  if (for_good && static_cast<unsigned>(bits) != kSecurebits) {
    base::throw_errno(EPERM, "lock the securebits");
  }
}

void Proof::require_groups(std::vector<gid_t> groups) const {
  std::sort(groups.begin(), groups.end());
  std::string text = "\nGroups:\t";
  for (const gid_t group : groups) {
    text += std::to_string(group) + " ";
  }
  require_lines({text + (groups.empty() ? " \n" : "\n")});
}

void forbid_tracing() {
  check(::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "forbid tracing");
}

bool has_capability(int capability) {
  static_cast<void>(read_own_capabilities());
  return ::capng_have_capability(CAPNG_EFFECTIVE, static_cast<unsigned>(capability)) != 0;
}

void keep_only(const Capabilities& kept) {
  const bool may_bound = read_own_capabilities();
  Capabilities present;
  for (const int capability : kept) {
    if (::capng_have_capability(CAPNG_PERMITTED, static_cast<unsigned>(capability)) != 0) {
      present.push_back(capability);
    }
  }
  if (may_bound) {
    ::capng_clear(CAPNG_SELECT_BOUNDS);
    add(CAPNG_BOUNDING_SET, present);
    apply(CAPNG_SELECT_BOUNDS);
  }
  ::capng_clear(CAPNG_SELECT_CAPS);
  add(CAPNG_EFFECTIVE, present);
  add(CAPNG_PERMITTED, present);
  apply(CAPNG_SELECT_CAPS);
}

void become(const Credentials& who, const Proof& proof) {
  const bool is_root = ::geteuid() == 0;
  const bool for_good = clear_bounding_set();
  check(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear the ambient set");
  if (for_good) {
    check(::prctl(PR_SET_SECUREBITS, kSecurebits, 0, 0, 0), "lock the securebits");
  } else if (is_root) {
    base::throw_errno(EPERM, "empty the bounding set (this root lacks CAP_SETPCAP)");
  }
  if (is_root) {
    change_ids(who);
    proof.require_groups(who.groups);
  } else if (::getuid() != who.uid || ::getgid() != who.gid) {
    base::throw_errno(EPERM, "change to uid " + std::to_string(who.uid) + " without being root");
  }
  drop_capabilities();
  check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
  prove_no_way_back();
  proof.require(who, for_good);
  forbid_tracing();
}

}  // namespace vmlaunch::sandbox
