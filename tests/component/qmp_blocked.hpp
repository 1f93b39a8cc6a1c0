#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <string>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/unique_fd.hpp"
#include "qmp/command.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::qmp::tests {

/// A command that holds QEMU's main loop until the test lets go: it opens a FIFO for writing, which
/// waits for a reader.
class Blocker {
 public:
  static constexpr const char* kCommand = "chardev-add";

  Blocker() { base::check(::mkfifo(fifo_.c_str(), 0600), "make a FIFO"); }

  [[nodiscard]] Json arguments() const {
    return {{"id", "held"}, {"backend", {{"type", "file"}, {"data", {{"out", fifo_}}}}}};
  }

  /// The command succeeds from now on, whether it has begun or not.
  void release() { reader_ = base::open_file(fifo_, O_RDONLY | O_NONBLOCK); }

 private:
  vmlaunch::tests::Folder folder_;
  std::string fifo_ = folder_.file("fifo");
  base::UniqueFd reader_;
};

}  // namespace vmlaunch::qmp::tests
