#include "launcher/run/preparation.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::run {

namespace {

using plan::FileUse;

constexpr std::size_t kConfigLimit = std::size_t{1} << 20U;
constexpr std::size_t kHeadLength = 32;

[[noreturn]] void refuse_config(ExitCode code, const std::string& path, const std::string& why) {
  throw Failure(code, "Cannot read the config " + base::printable(path) + ": " + why);
}

/// Every folder and link of the way resolved, so that the folder we keep is the one the file is in.
std::filesystem::path resolve(const std::string& path) {
  std::error_code error;
  std::filesystem::path real = std::filesystem::canonical(path, error);
  if (error) {
    refuse_config(
        error == std::errc::no_such_file_or_directory || error == std::errc::permission_denied
            ? ExitCode::preflight
            : ExitCode::usage,
        path,
        error.message() + "; type: namei -l " + base::shell_quote(path));
  }
  return real;
}

void require_small_file(int fd, const std::string& path) {
  struct stat info {};
  base::check(::fstat(fd, &info), "look at " + path);
  if (S_ISDIR(info.st_mode)) {
    refuse_config(ExitCode::usage, path, "it is a folder; name a file in it");
  }
  if (!S_ISREG(info.st_mode)) {
    refuse_config(ExitCode::usage, path, "it is not a regular file");
  }
  if (info.st_size > static_cast<off_t>(kConfigLimit)) {
    refuse_config(ExitCode::usage,
                  path,
                  "it has " + std::to_string(info.st_size) + " bytes; a config has at most 1 MiB");
  }
}

std::string head_of(int fd) {
  std::array<char, kHeadLength> head{};
  const ssize_t got = ::pread(fd, head.data(), head.size(), 0);
  return {head.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

/// Runs `open` and notes what it refused; true when somebody with more rights should try.
template <typename Open>
bool note_failure(std::vector<std::string>& problems, Authority authority, Open open) {
  try {
    open();
  } catch (const guardian::NoRight& failure) {
    if (authority == Authority::root) {
      return true;
    }
    problems.emplace_back(failure.what());
  } catch (const Failure& failure) {
    problems.emplace_back(failure.what());
  }
  return false;
}

void throw_if_any(const std::vector<std::string>& problems) {
  if (!problems.empty()) {
    throw Failure(ExitCode::preflight, base::join(problems, "\n"));
  }
}

void check_head(const FileUse& file, int fd) {
  if (file.is_qcow2) {
    refuse_backing_file(file, head_of(fd));
  }
}

}  // namespace

OpenConfig open_config(const std::string& path) {
  const std::filesystem::path real = resolve(path);
  OpenConfig config{real, real.filename(), {}, {}};
  // Non-blocking, so that a FIFO does not hold us.
  config.file.reset(
      ::open(real.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  if (!config.file) {
    refuse_config(ExitCode::preflight,
                  path,
                  base::error_text(errno) + "; type: namei -l " + base::shell_quote(path));
  }
  require_small_file(config.file.get(), path);
  config.folder = base::open_file(real.parent_path(), O_PATH | O_DIRECTORY);
  return config;
}

Prepared prepare(const OpenConfig& config, const Identity& identity, Authority authority) {
  const config::Document document(config.path,
                                  base::read_all(config.file.get(), kConfigLimit, config.path));
  Prepared prepared{config::load(document, config.path), {}};
  const survey::Survey survey = survey::look("", prepared.spec);
  prepared.plan = plan::make_plan(prepared.spec, survey, identity, authority);
  return prepared;
}

OpenFiles open_files(const plan::Plan& plan, Authority authority) {
  OpenFiles opened;
  std::vector<std::string> problems;
  note_failure(
      problems, authority, [&] { opened.program = guardian::open_program(plan.qemu.binary); });
  // First everything is looked at, so that a file is made only when nothing else is in the way.
  for (const FileUse& file : plan.files) {
    note_failure(problems, authority, [&] { guardian::check_plan_file(file); });
  }
  throw_if_any(problems);
  for (const FileUse& file : plan.files) {
    guardian::OpenFile open;
    note_failure(problems, authority, [&] {
      open = guardian::open_plan_file(file);
      check_head(file, open.fd.get());
    });
    opened.files.push_back(std::move(open));
  }
  if (!problems.empty()) {
    guardian::remove_made_files(plan, opened.files);
  }
  throw_if_any(problems);
  return opened;
}

void check_files(const plan::Plan& plan) {
  std::vector<std::string> problems;
  note_failure(problems, Authority::user, [&] {
    static_cast<void>(guardian::open_program(plan.qemu.binary));
  });
  for (const FileUse& file : plan.files) {
    note_failure(problems, Authority::user, [&] {
      guardian::check_plan_file(file);
      if (file.is_qcow2) {
        check_head(file, guardian::open_plan_file(file).fd.get());
      }
    });
  }
  throw_if_any(problems);
}

void refuse_backing_file(const FileUse& file, const std::string& head) {
  // qcow2, docs/interop/qcow2.txt of QEMU: magic at 0, the backing file name's offset at 8.
  const bool is_qcow2 = head.substr(0, 4) == "QFI\xfb";
  if (!is_qcow2) {
    throw Failure(ExitCode::preflight,
                  "Cannot use the " + file.purpose + " " + base::printable(file.path) +
                      ": it is not a qcow2 image; type: qemu-img info " +
                      base::shell_quote(file.path));
  }
  if (head.size() < 16 || head.substr(8, 8) != std::string(8, '\0')) {
    throw Failure(ExitCode::preflight,
                  "Cannot use the " + file.purpose + " " + base::printable(file.path) +
                      ": it is an overlay over another image, which is not supported; make it one "
                      "image: qemu-img convert -O qcow2 " +
                      base::shell_quote(file.path) + " NEW.qcow2");
  }
}

}  // namespace vmlaunch::launcher::run
