#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "base/file.hpp"
#include "launcher/steps/recovery.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/steps/transaction.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_kernel.hpp"

namespace vmlaunch::launcher::steps::tests {

using vmlaunch::tests::FakeKernel;
using vmlaunch::tests::Folder;
using vmlaunch::tests::PciTree;

inline const base::PciAddress kGpu{0, 1, 0, 0};
inline const base::PciAddress kSound{0, 1, 0, 1};

constexpr auto kRun = Lock::Purpose::run;

/// A laptop with all that steps look for, and a place for journals and locks.
struct Laptop {
  PciTree tree;
  Folder state;

  Laptop() {
    vmlaunch::tests::add_laptop(tree);
    vmlaunch::tests::add_system(tree);
    vmlaunch::tests::add_desktop(tree, "0000:01:00.0");
    tree.folder("/run/vmlaunch/taints");
  }
  [[nodiscard]] Journal journal(const std::string& vm = "vm") const {
    return Journal::create(state.path(), vm);
  }
  [[nodiscard]] StateFolders folders() const { return {state.path(), state.path()}; }
};

inline Context context() {
  return {"vm", {1234, 1234, {}}, {}, [](int, base::UniqueFd) {}, [](const std::string&) {}};
}

/// Applies steps in order; false when one failed.
inline bool apply_all(const std::vector<Step>& steps, FakeKernel& kernel, Journal& journal) {
  try {
    for (const Step& step : steps) {
      apply(step, kernel, context(), journal);
    }
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

/// The same until QEMU would run.
inline bool start_all(const std::vector<Step>& steps, FakeKernel& kernel, Journal& journal) {
  try {
    const bool applied = apply_all(steps, kernel, journal);
    if (applied) {
      after_start(kernel, journal, [](const std::string&) {});
    }
    return applied;
  } catch (const std::exception&) {
    return false;
  }
}

/// No file grows beyond `size` while it lives: what a full disk does to a journal.
class FullDisk {
 public:
  explicit FullDisk(std::size_t size) {
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before_) == 0);
    const rlimit limit{size, before_.rlim_max};
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  FullDisk(const FullDisk&) = delete;
  FullDisk& operator=(const FullDisk&) = delete;
  ~FullDisk() {
    static_cast<void>(::setrlimit(RLIMIT_FSIZE, &before_));
    static_cast<void>(std::signal(SIGXFSZ, handler_));
  }

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

/// A process that has a lock while this lives, and is killed then.
class AnotherProcess {
 public:
  explicit AnotherProcess(const std::function<std::optional<Lock>()>& take) {
    base::Pipe ready = base::make_pipe();
    child_ = base::fork_child("a run");
    if (child_.pid == 0) {
      const auto lock = take();
      base::write_all(ready.write_end.get(), lock ? "y" : "n", "the pipe");
      ::pause();
      ::_exit(0);
    }
    REQUIRE(base::wait_readable(ready.read_end.get(),
                                std::chrono::steady_clock::now() + std::chrono::seconds(10)));
  }
  AnotherProcess(const AnotherProcess&) = delete;
  AnotherProcess& operator=(const AnotherProcess&) = delete;
  ~AnotherProcess() {
    static_cast<void>(base::send_signal(child_.pidfd.get(), SIGKILL));
    CHECK(base::reap_within(child_.pidfd.get(), std::chrono::seconds(10)));
  }

  [[nodiscard]] pid_t pid() const { return child_.pid; }

 private:
  base::Child child_;
};

inline std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace vmlaunch::launcher::steps::tests
