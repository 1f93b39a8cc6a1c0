#pragma once

#include <optional>
#include <string>

#include "sandbox/privileges.hpp"

namespace vmlaunch::launcher {

/// Somebody with a login, or a uid that nobody has.
struct User {
  std::string name;  ///< "uid 1880000123" for a uid without a name
  sandbox::Credentials credentials;
};

/// The user of that name or number; throws Failure (preflight) if there is none.
[[nodiscard]] User find_user(const std::string& name_or_uid);

/// Who this run is for.
struct Identity {
  bool privileged = false;  ///< started as root: the guardian may change the host
  User user;                ///< who the supervisor is, never root
  bool invoker = false;     ///< `user` is a person (--as, sudo or a plain start)
};

/// `as` is the --as option. Root becomes --as USER, else SUDO_UID, else an unused uid; SUDO_UID is
/// only a variable that anybody may set, but all that it can do here is to lower rights. Throws
/// Failure for --as without root and for --as root.
[[nodiscard]] Identity find_identity(const std::optional<std::string>& as);

/// A uid for QEMU alone, when no person's serves: one per run, so that no two VMs share it.
[[nodiscard]] User unused_qemu_user();

/// Whose rights a config has.
enum class Authority { root, user };

[[nodiscard]] const char* to_string(Authority authority);

/// Derives it from the file and its folders: `config` is the open file, `folder` the open folder it
/// was found in under `name`. Root's authority needs a file of root's that nobody else can write or
/// replace; the user's, one of the user's or of root's. Anything else throws Failure with the
/// command to type. `user_uid` is the uid that the run is for.
[[nodiscard]] Authority derive_authority(int config,
                                         int folder,
                                         const std::string& name,
                                         uid_t user_uid);

}  // namespace vmlaunch::launcher
