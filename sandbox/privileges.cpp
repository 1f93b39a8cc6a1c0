#include "sandbox/privileges.hpp"

#include <grp.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include <cap-ng.h>

#include "base/errors.hpp"

namespace vmlaunch::sandbox {

namespace {

using base::check;

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

void clear_bounding_set() {
  if (read_own_capabilities()) {
    ::capng_clear(CAPNG_SELECT_BOUNDS);
    apply(CAPNG_SELECT_BOUNDS);
  }
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

}  // namespace

void forbid_tracing() {
  check(::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "forbid tracing");
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

void become(const Credentials& who) {
  if (::geteuid() == 0) {
    // While CAP_SETPCAP is still there: the change of uid takes every capability away.
    clear_bounding_set();
    change_ids(who);
  } else if (::getuid() != who.uid || ::getgid() != who.gid) {
    base::throw_errno(EPERM, "change to uid " + std::to_string(who.uid) + " without being root");
  }
  check(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "clear the ambient set");
  keep_only({});
  check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
  prove_no_way_back();
  forbid_tracing();
}

}  // namespace vmlaunch::sandbox
