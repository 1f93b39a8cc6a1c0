#include "qmp/errors.hpp"

#include "base/text.hpp"

namespace vmlaunch::qmp {

CommandError::CommandError(std::string command, std::string error_class, std::string description)
    : Error("Command " + base::printable(command) + " failed: " + base::printable(description) +
            " (" + base::printable(error_class) + ")"),
      command_(std::move(command)),
      error_class_(std::move(error_class)),
      description_(std::move(description)) {}

}  // namespace vmlaunch::qmp
