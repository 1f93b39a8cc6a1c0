#include "launcher/steps/state_folders.hpp"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// "" for what is not set; the specification has relative paths ignored.
std::string folder_variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value == '/' ? value : "";
}

std::string home() {
  if (std::string folder = folder_variable("HOME"); !folder.empty()) {
    return folder;
  }
  const passwd* entry = ::getpwuid(::geteuid());
  return entry != nullptr && entry->pw_dir != nullptr && *entry->pw_dir == '/' ? entry->pw_dir : "";
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (!error && ::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    error = std::error_code(errno, std::generic_category());
  }
  struct stat info {};
  if (!error && ::lstat(path.c_str(), &info) != 0) {
    error = std::error_code(errno, std::generic_category());
  }
  if (error) {
    throw Failure(ExitCode::preflight,
                  "Cannot make the folder " + base::printable(path) + ": " + error.message() +
                      "; type: namei -l " + base::shell_quote(path));
  }
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 0022U) != 0) {
    throw Failure(ExitCode::preflight,
                  "Cannot keep a journal in " + base::printable(path) +
                      ": it must be a folder of ours that nobody else can write; type: ls -ld " +
                      base::shell_quote(path));
  }
}

}  // namespace

StateFolders find_state_folders() {
  if (::geteuid() == 0) {
    return {"/var/lib/vmlaunch/journal", "/run/vmlaunch"};
  }
  std::string state = folder_variable("XDG_STATE_HOME");
  if (state.empty() && !home().empty()) {
    state = home() + "/.local/state";
  }
  if (state.empty()) {
    throw Failure(ExitCode::preflight,
                  "Cannot keep a journal: neither XDG_STATE_HOME nor HOME is set; type: export "
                  "XDG_STATE_HOME=FOLDER");
  }
  state += "/vmlaunch";
  const std::string runtime = folder_variable("XDG_RUNTIME_DIR");
  return {state + "/journal", runtime.empty() ? state + "/locks" : runtime + "/vmlaunch"};
}

void make_state_folders(const StateFolders& folders) {
  make_folder(folders.journal);
  make_folder(folders.locks);
}

}  // namespace vmlaunch::launcher::steps
