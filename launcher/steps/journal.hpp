#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "launcher/steps/step.hpp"

namespace vmlaunch::launcher::steps {

/// A journal that is not of our making: it is reported and kept, and nothing of it is executed.
class JournalError : public Failure {
 public:
  explicit JournalError(const std::string& message)
      : Failure(ExitCode::host_not_restored, message) {}
};

/// What a run did to the host, written down before it is done. A text file of one line for each
/// record: a checksum and a JSON object. A line counts once it is whole, so the file is valid after
/// a cut at any byte. Not thread-safe; one process at a time has it open, under the VM's lock.
class Journal {
 public:
  /// A step, what was found before it, and whether it has been undone.
  struct Entry {
    Step step;
    Json found;
    bool settled = false;
  };

  /// Starts the journal of a run. Throws std::system_error; EEXIST if there is one.
  [[nodiscard]] static Journal create(const std::string& folder, const std::string& vm);

  /// The journal that an earlier run left; nothing if there is none. A cut last line counts for
  /// nothing. The file is not changed before something is appended.
  /// Throws JournalError for anything that no run of this version wrote.
  [[nodiscard]] static std::optional<Journal> open(const std::string& folder,
                                                   const std::string& vm);

  /// Written, and on disk, when they return.
  void begin(const Step& step, const Json& found);
  void note(std::size_t entry, const Json& more);
  void settle(std::size_t entry);

  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }
  [[nodiscard]] const std::string& path() const { return path_; }

  /// A machine that was started anew has forgotten everything that steps change.
  [[nodiscard]] bool of_this_boot() const;

  /// Everything has been undone.
  void remove();

 private:
  Journal(std::string path, base::UniqueFd file) : path_(std::move(path)), file_(std::move(file)) {}

  void append(const Json& record);
  void read_back(const std::string& bytes);
  void take(const Json& record);

  std::string path_;
  base::UniqueFd file_;
  std::size_t size_ = 0;  ///< of whole lines; what the file has beyond was cut off
  std::string boot_;
  std::vector<Entry> entries_;
};

/// VMs that have a journal, sorted.
[[nodiscard]] std::vector<std::string> journalled_vms(const std::string& folder);

}  // namespace vmlaunch::launcher::steps
