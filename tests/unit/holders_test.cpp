#include "launcher/steps/holders.hpp"

#include <fcntl.h>
#include <stdlib.h>  // NOLINT(modernize-deprecated-headers): for ptsname_r
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>

#include "base/errors.hpp"
#include "launcher/exit_code.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

/// A device node that nobody else has: the slave of a new pseudo-terminal.
class OwnNode {
 public:
  OwnNode() : master_(base::open_file("/dev/ptmx", O_RDWR)) {
    base::check(::grantpt(master_.get()), "grant the terminal");
    base::check(::unlockpt(master_.get()), "unlock the terminal");
    std::array<char, 64> path{};
    base::check(::ptsname_r(master_.get(), path.data(), path.size()), "name the terminal");
    struct stat info {};
    base::check(::stat(path.data(), &info), "look at the terminal");
    node_ = {path.data(), false, major(info.st_rdev), minor(info.st_rdev)};
  }

  [[nodiscard]] const Node& node() const { return node_; }
  [[nodiscard]] std::vector<Holder> holders() const { return find_holders({node_}); }

 private:
  base::UniqueFd master_;
  Node node_;
};

/// A process that has a file open while it lives.
class Opener {
 public:
  Opener(const std::string& path, int flags) {
    base::Pipe ready = base::make_pipe();
    child_ = base::fork_child("a process with a file");
    if (child_.pid == 0) {
      const base::UniqueFd fd(::open(path.c_str(), flags | O_NOCTTY));
      base::write_all(ready.write_end.get(), fd ? "y" : "n", "the pipe");
      ::pause();
      ::_exit(0);
    }
    REQUIRE(base::wait_readable(ready.read_end.get(),
                                std::chrono::steady_clock::now() + std::chrono::seconds(10)));
  }
  Opener(const Opener&) = delete;
  Opener& operator=(const Opener&) = delete;
  ~Opener() {
    static_cast<void>(base::send_signal(child_.pidfd.get(), SIGKILL));
    CHECK(base::reap_within(child_.pidfd.get(), std::chrono::seconds(10)));
  }

  [[nodiscard]] pid_t pid() const { return child_.pid; }

 private:
  base::Child child_;
};

/// Tells what it was told, and can be asked to give up.
struct Listener {
  std::vector<std::string> lines;
  bool stop = false;

  Context context() {
    Context context = tests::context();
    context.waiting = [this](const std::string& text) {
      if (stop) {
        throw Failure(ExitCode::ended, "stopped");
      }
      if (lines.empty() || lines.back() != text) {
        lines.push_back(text);
      }
    };
    return context;
  }
};

const std::vector<Holder> kXorg = {{1234, "Xorg :0", "/dev/dri/card0"}};

TEST_CASE("holders: the nodes of a device are those below it in sysfs, with their names",
          "[holders]") {
  const Laptop laptop;
  const std::string gpu = laptop.tree.device("0000:01:00.0");
  laptop.tree.write(gpu + "/drm/card0/dev", "226:0\n");
  laptop.tree.write(gpu + "/drm/card0/uevent", "MAJOR=226\nMINOR=0\nDEVNAME=dri/card0\n");
  laptop.tree.write(gpu + "/nvme/nvme0n1/dev", "259:3\n");
  laptop.tree.folder("/sys/class/block");
  laptop.tree.link(gpu + "/nvme/nvme0n1/subsystem", "/sys/class/block");
  laptop.tree.write(gpu + "/odd/dev", "nonsense\n");
  std::vector<Node> nodes = nodes_of(laptop.tree.tree(), kGpu);
  std::sort(
      nodes.begin(), nodes.end(), [](const Node& a, const Node& b) { return a.path < b.path; });
  CHECK(nodes ==
        std::vector<Node>{{"/dev/259:3", true, 259, 3}, {"/dev/dri/card0", false, 226, 0}});
  CHECK(nodes_of(laptop.tree.tree(), kSound).empty());
  CHECK(nodes_of(laptop.tree.tree(), {0, 0x55, 0, 0}).empty());
}

TEST_CASE("holders: an NVIDIA card's node is found by the number that its driver tells",
          "[holders]") {
  const Laptop laptop;
  laptop.tree.write("/proc/driver/nvidia/gpus/0000:01:00.0/information",
                    "Model: \t\t GeForce\nDevice Minor: \t 2\n");
  CHECK(nodes_of(laptop.tree.tree(), kGpu) == std::vector<Node>{{"/dev/nvidia2", false, 195, 2}});
}

TEST_CASE("holders: a process with the node open is named, until it closes it", "[holders]") {
  const OwnNode node;
  CHECK(node.holders().empty());  // but this one's
  {
    const Opener opener(node.node().path, O_RDWR);
    const std::vector<Holder> holders = node.holders();
    REQUIRE(holders.size() == 1);
    CHECK(holders[0].pid == opener.pid());
    CHECK(holders[0].command.starts_with("unit_tests"));
    CHECK(holders[0].node == node.node().path);
    CHECK(read_holders(to_json(holders)) == holders);
  }
  CHECK(node.holders().empty());
}

TEST_CASE("holders: who has only the node's name open (O_PATH) holds nothing", "[holders]") {
  const OwnNode node;
  const Opener opener(node.node().path, O_PATH);
  CHECK(node.holders().empty());
}

TEST_CASE("holders: a mapping without a descriptor is one too", "[holders]") {
  base::Pipe ready = base::make_pipe();
  const base::Child child = base::fork_child("a process with a mapping");
  if (child.pid == 0) {
    base::UniqueFd fd(::open("/dev/zero", O_RDWR));
    void* memory = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    fd.reset();
    base::write_all(ready.write_end.get(), memory != MAP_FAILED ? "y" : "n", "the pipe");
    ::pause();
    ::_exit(0);
  }
  REQUIRE(base::wait_readable(ready.read_end.get(),
                              std::chrono::steady_clock::now() + std::chrono::seconds(10)));
  const std::vector<Holder> holders = find_holders({{"/dev/zero", false, 1, 5}});
  CHECK(std::any_of(holders.begin(), holders.end(), [&](const Holder& holder) {
    return holder.pid == child.pid;
  }));
  static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));
  CHECK(base::reap_within(child.pidfd.get(), std::chrono::seconds(10)));
}

TEST_CASE("holders: a device that nobody has open is waited for not at all", "[holders]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Listener listener;
  Journal journal = laptop.journal();
  apply(await_release(kGpu, base::Milliseconds(0)), kernel, listener.context(), journal);
  CHECK(listener.lines.empty());
  CHECK(kernel.count() == 0);
}

TEST_CASE("holders: the wait tells who has the device, and ends when nobody does", "[holders]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  kernel.hold(1, kXorg);
  kernel.hold(3, {});  // for a moment
  kernel.hold(4, {{5, "nvtop", "/dev/dri/renderD128"}});
  kernel.hold(6, {});
  Listener listener;
  Journal journal = laptop.journal();
  apply(await_release(kGpu, base::Milliseconds(59900)), kernel, listener.context(), journal);
  CHECK(listener.lines ==
        std::vector<std::string>{"waiting for Xorg :0 (1234) to close /dev/dri/card0, 60s left",
                                 "waiting for nvtop (5) to close /dev/dri/renderD128, 60s left"});
  CHECK(undo_all(kernel, journal).code == ExitCode::ended);
}

TEST_CASE("holders: at the deadline the start is refused with their names", "[holders]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  kernel.hold(1, {kXorg[0], {5, "nvtop", "/dev/dri/card0"}});
  Journal journal = laptop.journal();
  Listener listener;
  const Step step = await_release(kGpu, base::Milliseconds(120));
  CHECK(vmlaunch::tests::refusal([&] { apply(step, kernel, listener.context(), journal); }) ==
        "11: Cannot take 0000:01:00.0 from the host: Xorg :0 (1234), nvtop (5) have "
        "/dev/dri/card0 open; end what uses it, or type: kill 1234 5");
}

TEST_CASE("holders: a wait that is to end ends at once", "[holders]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  kernel.hold(1, kXorg);
  Journal journal = laptop.journal();
  Listener listener;
  listener.stop = true;
  const auto start = std::chrono::steady_clock::now();
  CHECK_THROWS_AS(
      apply(await_release(kGpu, std::chrono::minutes(10)), kernel, listener.context(), journal),
      Failure);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("holders: a device that was opened after the wait is not unbound", "[holders]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  apply(override_driver(kGpu, "nouveau", "vfio-pci"), kernel, tests::context(), journal);
  const int before = kernel.count();
  kernel.hold(1, kXorg);
  CHECK(vmlaunch::tests::refusal([&] {
          apply(bind_driver(kGpu, "nouveau", "vfio-pci"), kernel, tests::context(), journal);
        }).starts_with("11: Cannot take 0000:01:00.0 from the host: Xorg :0 (1234) has "));
  CHECK(kernel.count() == before);
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
