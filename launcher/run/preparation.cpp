#include "launcher/run/preparation.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/packet.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "launcher/guardian/image_head.hpp"
#include "launcher/steps/reservations.hpp"
#include "launcher/steps/state_folders.hpp"
#include "launcher/steps/taints.hpp"
#include "launcher/survey/hyperv.hpp"
#include "launcher/survey/survey.hpp"

namespace vmlaunch::launcher::run {

namespace {

using plan::FileUse;

constexpr std::size_t kConfigLimit = std::size_t{1} << 20U;

[[noreturn]] void refuse_config(ExitCode code, const std::string& path, const std::string& why) {
  throw Failure(code, "Cannot read the config " + base::printable(path) + ": " + why);
}

/// A bare word may have been meant for a verb.
std::string what_to_do(const std::string& path) {
  return path.find_first_of("./") == std::string::npos
             ? ", nor is it a verb; type: vmlaunch --help"
             : "; type: namei -l " + base::shell_quote(path);
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
        error.message() + what_to_do(path));
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
  } catch (const std::system_error& error) {
    problems.emplace_back(error.what());
  }
  return false;
}

void throw_if_any(const std::vector<std::string>& problems) {
  if (!problems.empty()) {
    throw Failure(ExitCode::preflight, base::join(problems, "\n"));
  }
}

/// QEMU takes a relative name from the image's folder.
bool is_same_path(const FileUse& file, const std::string& named) {
  const std::filesystem::path meant = std::filesystem::path(file.path).parent_path() / named;
  return meant.lexically_normal() == std::filesystem::path(*file.backing).lexically_normal();
}

void check_head(const FileUse& file, int fd) {
  if (file.is_qcow2) {
    check_image(file, guardian::head_of(fd));
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

config::VmSpec load_config(const OpenConfig& config) {
  const config::Document document(config.path,
                                  base::read_all(config.file.get(), kConfigLimit, config.path));
  return config::load(document, config.path);
}

Known find_known(bool guardian_unit) {
  const std::string locks = steps::find_state_folders().locks;
  const steps::Host host;
  std::map<base::PciAddress, std::string> tainted;
  for (const auto& [device, taint] : steps::find_taints(host)) {
    tainted.emplace(device, steps::describe(device, taint));
  }
  return {steps::reserved_devices(locks),
          steps::reserved_usb(locks),
          steps::reserved_cpus(locks),
          std::move(tainted),
          guardian_unit,
          survey::look_at_hyperv(base::Tree(""))};
}

Prepared prepare(config::VmSpec spec, const Identity& identity, Authority authority, Known known) {
  Prepared prepared{std::move(spec), {}};
  survey::Survey survey = survey::look("", prepared.spec, identity.privileged);
  survey.had = std::move(known.had);
  survey.usb_had = std::move(known.usb_had);
  survey.cpus_had = std::move(known.cpus_had);
  survey.tainted = std::move(known.tainted);
  survey.guardian_unit = known.guardian_unit;
  survey.hyperv = std::move(known.hyperv);
  prepared.plan = plan::make_plan(prepared.spec, survey, identity, authority);
  return prepared;
}

OpenFiles open_files(const plan::Plan& plan, Authority authority, Making making) {
  OpenFiles opened;
  std::vector<std::string> problems;
  note_failure(
      problems, authority, [&] { opened.program = guardian::open_program(plan.qemu.binary); });
  // First everything is looked at, so that a file is made only when nothing else is in the way.
  std::vector<bool> left_to_guardian;
  for (const FileUse& file : plan.files) {
    left_to_guardian.push_back(
        note_failure(problems, authority, [&] { guardian::check_plan_file(file); }));
  }
  throw_if_any(problems);
  for (std::size_t i = 0; i < plan.files.size(); ++i) {
    const FileUse& file = plan.files[i];
    guardian::OpenFile open;
    if (making == Making::pretended && guardian::must_be_made(file)) {
      open.made = !left_to_guardian[i];
      opened.files.push_back(std::move(open));
      continue;
    }
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

Sealing sealing_of(const OpenConfig& config, const plan::Plan& plan, const OpenFiles& opened) {
  Sealing sealing{{config.name, plan, static_cast<bool>(opened.program), {}},
                  {config.file.get(), config.folder.get()}};
  if (opened.program) {
    sealing.fds.push_back(opened.program.get());
  }
  std::vector<FileUse>& files = sealing.request.plan.files;
  files.clear();
  for (std::size_t i = 0; i < plan.files.size(); ++i) {
    const guardian::OpenFile& open = opened.files[i];
    if (open.fd) {
      sealing.request.opened.push_back(files.size());
      sealing.fds.push_back(open.fd.get());
    }
    if (open.fd || !open.made) {
      files.push_back(plan.files[i]);
    }
  }
  return sealing;
}

void check_facts(const plan::Plan& plan, const guardian::Sealed& sealed) {
  for (const guardian::FileFacts& facts : sealed.files) {
    const FileUse& file = plan.files.at(facts.index);
    if (file.is_qcow2) {
      check_image(file, facts.head);
    }
  }
}

void check_image(const FileUse& file, const std::string& head) {
  const std::string quoted = base::shell_quote(file.path);
  const std::string look = "; type: qemu-img info " + quoted;
  const auto refuse = [&](const std::string& why, const std::string& advice) {
    throw Failure(
        ExitCode::preflight,
        "Cannot use the " + file.purpose + " " + base::printable(file.path) + ": " + why + advice);
  };
  const auto links = guardian::links_of(head);
  if (!links) {
    return refuse("it is not a qcow2 image", look);
  }
  if (links->has_data_file) {
    return refuse("its data is in another file, which is not supported; make it one image",
                  ": qemu-img convert -O qcow2 " + quoted + " NEW.qcow2");
  }
  const std::string beneath = links->beneath ? base::printable(*links->beneath)
                                             : "a file whose name is in an unusual place";
  if (links->is_overlay && !file.backing) {
    return refuse(
        "it lies over " + beneath +
            ", which the config does not list in \"backing\"; before you add it, see that "
            "it is yours: a guest can write the name of any file there",
        look);
  }
  if (!links->is_overlay && file.backing) {
    return refuse(
        "it stands alone, and the config lists " + base::printable(*file.backing) + " beneath it",
        look);
  }
  if (links->is_overlay && !(links->beneath && is_same_path(file, *links->beneath))) {
    return refuse("it lies over " + beneath + ", and the config lists " +
                      base::printable(*file.backing) +
                      ": unless you changed it, the guest has written that",
                  look);
  }
}

}  // namespace vmlaunch::launcher::run
