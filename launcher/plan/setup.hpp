#pragma once

#include <string>
#include <vector>

#include "launcher/config/document.hpp"
#include "launcher/config/vm_spec.hpp"
#include "launcher/identity.hpp"
#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::plan {

/// What an administrator gives a user once, so that the user's runs of a VM need no root.
struct Setup {
  struct File {
    std::string path;
    std::vector<std::string> reasons;
    std::vector<std::string> lines;
  };
  struct Command {
    std::string text;  ///< for a shell
    std::string reason;
  };

  std::string vm;
  std::string user;
  std::vector<File> files;
  std::vector<Command> commands;    ///< that come after the files
  std::vector<std::string> missed;  ///< what the config asks for and a user cannot have at all
};

/// All of it, whatever of it the host has already. Throws Failure as choose_devices and
/// choose_memory do, and (preflight) for a user whose name no file could bear.
/// `program` is vmlaunch's own file.
[[nodiscard]] Setup make_setup(const config::VmSpec& spec,
                               const survey::Survey& survey,
                               const User& user,
                               const std::string& program);

/// For people, and for a shell of root's: it writes the files.
[[nodiscard]] std::string to_text(const Setup& setup);

/// For programs.
[[nodiscard]] config::Json to_json(const Setup& setup);

}  // namespace vmlaunch::launcher::plan
