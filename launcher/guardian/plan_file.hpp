#pragma once

#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::guardian {

/// A file of the plan, open as the plan says.
struct OpenFile {
  base::UniqueFd fd;
  bool made = false;  ///< it did not exist before
};

/// Opening failed for want of rights: somebody else may have them.
class NoRight : public Failure {
 public:
  explicit NoRight(const std::string& message) : Failure(ExitCode::preflight, message) {}
};

/// The plan says to make this file, and it is not there.
[[nodiscard]] bool must_be_made(const plan::FileUse& file);

/// Opens a file of the plan with the caller's rights and makes it first if the plan says so. Throws
/// Failure (preflight) with what, why and what to do; NoRight when other rights might do.
[[nodiscard]] OpenFile open_plan_file(const plan::FileUse& file);

/// Looks whether open_plan_file would succeed, and makes nothing.
void check_plan_file(const plan::FileUse& file);

/// Throws Failure (preflight) when one file is given twice, by whatever names, and written at one
/// of its places: a log into a disk would destroy it. `files` as in the plan, empty ones left out.
void require_distinct_files(const plan::Plan& plan, const std::vector<OpenFile>& files);

/// Takes back what open_plan_file made, for a run whose guest never ran. `files` as in the plan.
void remove_made_files(const plan::Plan& plan, const std::vector<OpenFile>& files);

/// Opens QEMU's program for execution by descriptor. Throws like open_plan_file.
[[nodiscard]] base::UniqueFd open_program(const std::string& path);

/// The path with every link resolved. Throws Failure (preflight) if anyone but root could change
/// where it leads: root opens no path that another user steers. (The last part may be missing.)
[[nodiscard]] std::string require_roots_own_path(const std::string& path);

}  // namespace vmlaunch::launcher::guardian
