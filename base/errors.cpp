#include "base/errors.hpp"

#include <cerrno>

namespace vmlaunch::base {

void throw_errno(const std::string& action) {
  throw_errno(errno, action);
}

void throw_errno(int error, const std::string& action) {
  throw std::system_error(error, std::generic_category(), "Cannot " + action);
}

std::string error_text(int error) {
  return std::generic_category().message(error);
}

}  // namespace vmlaunch::base
