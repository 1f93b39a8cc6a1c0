#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "base/process.hpp"
#include "base/unique_fd.hpp"

namespace vmlaunch::tests {

using Seconds = std::chrono::duration<double>;

/// How a program is started for a test.
struct Launch {
  std::vector<std::string> arguments;    ///< the first is the program's path
  std::vector<std::string> environment;  ///< in addition to PATH, the sanitizers' options and, for
                                         ///< a uid, a state folder of its own
  std::optional<uid_t> uid;              ///< without groups and capabilities; the program's folder
                                         ///< may be closed to it
  bool terminal = false;                 ///< standard input and output are a terminal of its own
  std::string folder = "/";
};

/// A temporary folder that goes with the object.
class Folder {
 public:
  Folder();
  /// A folder whose own name holds `odd` characters.
  explicit Folder(const std::string& odd);
  Folder(const std::string& odd, const std::string& parent);
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

  /// Writes a file and returns its path.
  std::string write(const std::string& name,
                    const std::string& content,
                    unsigned mode = 0644) const;

  /// Copies a program into it, for users to whom its own folder is closed, and returns the path.
  std::string copy(const std::string& program, const std::string& name) const;

  /// Names of what is in it, sorted.
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  std::string root_;
  std::string path_;
};

/// A socket with that name, to which nobody listens.
void make_socket(const std::string& path);

/// One that is not below /dev, which a QEMU has another of, wherever tests have theirs.
[[nodiscard]] Folder shared_folder();

/// What is asked of a program takes no longer.
constexpr Seconds kPatience{60};

/// A program under test: its output is collected, it is waited for with a deadline, and nothing of
/// it outlives the object.
class Program {
 public:
  explicit Program(const Launch& given);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program();

  [[nodiscard]] pid_t pid() const { return child_.pid; }

  /// Waits until the output (standard output and error together) contains `text`; false at the
  /// deadline or when the program ended without it.
  [[nodiscard]] bool says(const std::string& text, Seconds limit = kPatience);
  /// The same for so many occurrences.
  [[nodiscard]] bool says_often(const std::string& text, std::size_t times, Seconds limit);

  /// Types into the program's standard input.
  void type(const std::string& text);
  /// Closes its terminal or standard input.
  void hang_up();

  void signal(int number);

  /// The end of the program; nothing if it is still there at the deadline.
  [[nodiscard]] std::optional<base::ExitStatus> wait(Seconds limit = kPatience);

  /// The exit code, or 128 + signal; -1 at the deadline.
  [[nodiscard]] int exit_code(Seconds limit = kPatience);

  [[nodiscard]] const std::string& output() const { return output_; }

  /// The first number after `marker` in the output, -1 if there is none.
  [[nodiscard]] long number_after(const std::string& marker) const;

  /// The terminal's other end, for a look at its modes.
  [[nodiscard]] int terminal() const { return input_.get(); }

 private:
  bool read_some(std::chrono::steady_clock::time_point deadline);

  std::optional<Folder> state_;
  base::Child child_;
  base::UniqueFd input_;
  base::UniqueFd output_fd_;
  std::string output_;
  std::optional<base::ExitStatus> status_;
  bool at_end_ = false;
};

/// True as soon as `condition` holds, false at the deadline.
template <typename Condition>
bool eventually(Condition condition, Seconds limit = Seconds(10)) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return false;
    }
    timespec pause{0, 5000000};
    ::nanosleep(&pause, nullptr);
  }
  return true;
}

/// Whether a process of that number lives (a zombie does not).
[[nodiscard]] bool lives(pid_t pid);

/// Numbers of the living processes whose parent is `pid`.
[[nodiscard]] std::vector<pid_t> children_of(pid_t pid);

/// 0 for a process that is not there.
[[nodiscard]] pid_t parent_of(pid_t pid);

/// Numbers of the processes whose command line contains `text`; the guardian's is the supervisor's.
[[nodiscard]] std::vector<pid_t> processes_naming(const std::string& text);

}  // namespace vmlaunch::tests
