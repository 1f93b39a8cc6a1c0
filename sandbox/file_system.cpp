#include "sandbox/file_system.hpp"

#include <fcntl.h>
#include <sys/mount.h>

#include <utility>

#include "base/errors.hpp"

namespace vmlaunch::sandbox {

using base::check;

base::UniqueFd make_file_system(const std::string& what, unsigned attributes) {
  const std::string action = "make " + what + " for QEMU";
  const base::UniqueFd context(check(::fsopen("tmpfs", FSOPEN_CLOEXEC), action));
  for (const auto& [key, value] :
       {std::pair("size", "64k"), std::pair("nr_inodes", "512"), std::pair("mode", "0755")}) {
    check(::fsconfig(context.get(), FSCONFIG_SET_STRING, key, value, 0), action);
  }
  check(::fsconfig(context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), action);
  return base::UniqueFd(check(::fsmount(context.get(), FSMOUNT_CLOEXEC, attributes), action));
}

}  // namespace vmlaunch::sandbox
