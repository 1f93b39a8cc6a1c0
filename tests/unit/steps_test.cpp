#include "launcher/steps/steps.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
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
#include "launcher/plan/plan.hpp"
#include "launcher/steps/recovery.hpp"
#include "launcher/steps/transaction.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/fake_kernel.hpp"
#include "tests/support/golden.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using tests::FakeKernel;
using tests::Folder;
using tests::PciTree;
using Fault = FakeKernel::Fault;

const base::PciAddress kGpu{0, 1, 0, 0};
const base::PciAddress kSound{0, 1, 0, 1};

/// A laptop with all that steps look for.
struct Laptop {
  PciTree tree;
  Folder state;

  Laptop() {
    tests::add_laptop(tree);
    tests::add_system(tree);
  }
  [[nodiscard]] Journal journal() const { return Journal::create(state.path(), "vm"); }
  [[nodiscard]] StateFolders folders() const { return {state.path(), state.path()}; }
};

Context context() {
  return {"vm", {1234, 1234, {}}, {}};
}

/// The steps of every example config on the laptop, as a run by root has them.
std::vector<std::vector<Step>> plans_of_examples(const PciTree& tree) {
  std::vector<std::vector<Step>> all;
  for (const std::string& file : tests::sources_in("configs", ".json")) {
    if (file.ends_with(".schema.json")) {
      continue;
    }
    const std::string path = "/configs/" + file;
    const config::VmSpec spec =
        config::load(config::Document(path, tests::read_source("configs/" + file)), path);
    survey::Survey survey;
    survey.cgroup = true;
    survey.kvm = {true, 0, 0, 0666, true, true, false};
    survey.pci = survey::look_at_pci(tree.tree());
    survey.uefi = survey::Uefi{"/code.fd", "/vars.fd"};
    const Identity root{true, {"uid 1880000042", {1880000042, 1880000042, {}}}, false};
    all.push_back(plan::make_plan(spec, survey, root, Authority::root).steps);
  }
  return all;
}

/// Applies steps in order; false when one failed.
bool apply_all(const std::vector<Step>& steps, FakeKernel& kernel, Journal& journal) {
  try {
    for (const Step& step : steps) {
      apply(step, kernel, context(), journal);
    }
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

int changes_of(const std::vector<Step>& steps) {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all(steps, kernel, journal));
  return kernel.count();
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

constexpr auto kRun = Lock::Purpose::run;

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

std::string text_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_CASE("steps: each is read back, and others of its kind are others", "[steps]") {
  const std::vector<Step> steps = {make_cgroup("a"),
                                   make_cgroup("b"),
                                   load_vfio(),
                                   keep_awake(kGpu),
                                   keep_awake(kSound),
                                   override_driver(kGpu, ""),
                                   override_driver(kGpu, "nouveau"),
                                   override_driver(kSound, ""),
                                   bind_driver(kGpu, ""),
                                   bind_driver(kGpu, "nouveau"),
                                   bind_driver(kSound, ""),
                                   own_node(0),
                                   own_node(1),
                                   start_qemu(false),
                                   start_qemu(true)};
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const Step read = read_step(to_json(steps[i]));
    for (std::size_t j = 0; j < steps.size(); ++j) {
      INFO(steps[i]->describe() << ", " << steps[j]->describe());
      CHECK((read == steps[j]) == (i == j));
    }
  }
}

TEST_CASE("steps: what every example's steps change is undone from their journal", "[steps]") {
  Laptop any;
  for (const auto& steps : plans_of_examples(any.tree)) {
    INFO(steps.front()->describe() << ", " << steps.size() << " steps");
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    const auto before = tests::snapshot(laptop.tree);
    Journal journal = laptop.journal();
    REQUIRE(apply_all(steps, kernel, journal));
    CHECK(tests::snapshot(laptop.tree) != before);
    const Undone undone = undo_all(kernel, journal);
    CHECK(undone.code == ExitCode::ended);
    CHECK(undone.leftovers.empty());
    CHECK(undone.restored.size() == steps.size());
    CHECK(tests::difference(before, tests::snapshot(laptop.tree)).empty());
    CHECK(laptop.state.names().empty());
  }
}

TEST_CASE("steps: whichever change fails, the host is as it was", "[steps]") {
  Laptop any;
  int swept = 0;
  for (const auto& steps : plans_of_examples(any.tree)) {
    const int changes = changes_of(steps);
    for (int n = 1; n <= changes; ++n) {
      for (const Fault fault : {Fault::fails, Fault::fails_after}) {
        INFO(steps.front()->describe() << ", change " << n << " of " << changes
                                       << (fault == Fault::fails ? "" : ", after it was made"));
        Laptop laptop;
        FakeKernel kernel(laptop.tree);
        const auto before = tests::snapshot(laptop.tree);
        Journal journal = laptop.journal();
        kernel.fail_at(n, fault);
        // A probe may say that it failed and have bound the device: then nothing failed.
        static_cast<void>(apply_all(steps, kernel, journal));
        const Undone undone = undo_all(kernel, journal);
        CHECK(undone.leftovers.empty());
        CHECK(tests::difference(before, tests::snapshot(laptop.tree)).empty());
        ++swept;
      }
    }
  }
  INFO(swept << " faults");
  CHECK(swept >= 2 * 20);
}

TEST_CASE("steps: wherever a run is killed, another process restores the host", "[steps]") {
  Laptop any;
  for (const auto& steps : plans_of_examples(any.tree)) {
    const int changes = changes_of(steps);
    for (int n = 1; n <= 2 * changes; ++n) {  // the second half: while it is undone
      for (const Fault fault : {Fault::killed, Fault::killed_after}) {
        INFO(steps.front()->describe() << ", change " << n << " of " << 2 * changes);
        Laptop laptop;
        FakeKernel kernel(laptop.tree);
        const auto before = tests::snapshot(laptop.tree);
        try {
          Journal journal = laptop.journal();
          kernel.fail_at(n, fault);
          static_cast<void>(apply_all(steps, kernel, journal));
          static_cast<void>(undo_all(kernel, journal));
        } catch (const FakeKernel::Killed&) {
        }
        const auto undone = recover_vm(kernel, laptop.folders(), "vm");
        if (undone) {
          CHECK(undone->leftovers.empty());
        }
        CHECK(tests::difference(before, tests::snapshot(laptop.tree)).empty());
        CHECK(laptop.state.names().empty());
      }
    }
  }
}

TEST_CASE("steps: an undo that fails is told, the others go on, and the next try succeeds",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  const auto before = tests::snapshot(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({keep_awake(kGpu),
                     override_driver(kGpu, "nouveau"),
                     bind_driver(kGpu, "nouveau"),
                     keep_awake(kSound)},
                    kernel,
                    journal));
  kernel.fail_at(3, Fault::fails);  // of the way back: the sound's two settings, then an override
  const Undone first = undo_all(kernel, journal);
  CHECK(first.code == ExitCode::host_not_restored);
  REQUIRE(first.leftovers.size() == 3);  // all about the GPU, so that the order stays
  CHECK(first.leftovers[0].starts_with("bind 0000:01:00.0 to vfio-pci"));
  CHECK(first.restored.size() == 1);
  const auto second = recover_vm(kernel, laptop.folders(), "vm");
  REQUIRE(second);
  CHECK(second->code == ExitCode::ended);
  CHECK(tests::difference(before, tests::snapshot(laptop.tree)) == "");
}

TEST_CASE("steps: a journal that cannot be written does not stop the way back", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  const auto before = tests::snapshot(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({make_cgroup("vm"),
                     keep_awake(kGpu),
                     override_driver(kGpu, "nouveau"),
                     bind_driver(kGpu, "nouveau"),
                     own_node(2)},
                    kernel,
                    journal));
  kernel.set_owner("/dev/vfio/2", {77, 77, 0666});  // somebody else's: that is noted too
  const FullDisk full(text_of(laptop.state.file("vm")).size());
  const Undone undone = undo_all(kernel, journal);
  CHECK(undone.leftovers.size() == 1);
  CHECK(undone.restored.size() == 4);
  CHECK(tests::difference(before, tests::snapshot(laptop.tree)) == "");
  CHECK(laptop.state.names().empty());
}

TEST_CASE("steps: what a start would put back first is told of every VM that does not run",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({keep_awake(kGpu), override_driver(kGpu, "nouveau")}, kernel, journal));
  laptop.state.write("garbage", "x\n", 0600);
  const auto lines = leftovers(laptop.folders(), "another");
  REQUIRE(lines.size() == 3);
  CHECK(lines[0].starts_with("left by an earlier run of garbage: Cannot use the journal "));
  CHECK(lines[1].starts_with("left by an earlier run of vm, put back first: reserve "));
  CHECK(lines[2].starts_with("left by an earlier run of vm, put back first: keep "));
  CHECK_THROWS_AS(leftovers(laptop.folders(), "garbage"), JournalError);
}

TEST_CASE("steps: what somebody else changed is left, named once, and nothing else suffers",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({make_cgroup("vm"),
                     keep_awake(kGpu),
                     override_driver(kGpu, "nouveau"),
                     bind_driver(kGpu, "nouveau"),
                     own_node(2)},
                    kernel,
                    journal));
  const std::string gpu = laptop.tree.device("0000:01:00.0");
  laptop.tree.write(gpu + "/driver_override", "nvidia\n");
  laptop.tree.bind("0000:01:00.0", "nvidia");
  kernel.set_owner("/dev/vfio/2", {77, 77, 0666});
  const Undone undone = undo_all(kernel, journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  REQUIRE(undone.leftovers.size() == 3);
  const std::string left = "changed by somebody else meanwhile, and left: ";
  CHECK(
      undone.leftovers[0] ==
      left +
          "/dev/vfio/2 is 77:77 mode 0666, was 0:0 mode 0600; type: chown 0:0 /dev/vfio/2 && chmod "
          "0600 /dev/vfio/2");
  CHECK(undone.leftovers[1] ==
        left +
            "0000:01:00.0 has nvidia, had nouveau; type: echo 0000:01:00.0 > "
            "/sys/bus/pci/devices/0000:01:00.0/driver/unbind && echo 0000:01:00.0 > "
            "/sys/bus/pci/drivers/nouveau/bind");
  CHECK(undone.leftovers[2] == left +
                                   "/sys/bus/pci/devices/0000:01:00.0/driver_override is "
                                   "\"nvidia\", was \"\"; type: echo > "
                                   "/sys/bus/pci/devices/0000:01:00.0/driver_override");
  CHECK_FALSE(undone.again);
  CHECK(kernel.tree().read(gpu + "/d3cold_allowed") == "1");
  CHECK_FALSE(kernel.tree().exists("/sys/fs/cgroup/vmlaunch-vm"));
  CHECK(laptop.state.names().empty());
}

TEST_CASE("steps: what another user was given is a node's in any half of it", "[steps]") {
  const Owner before{0, 44, 0660};
  const Owner to{1234, 1234, 0600};
  for (const Owner& half : {Owner{0, 44, 0600}, Owner{0, 44, 0660}, Owner{1234, 44, 0600}, to}) {
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    kernel.set_owner("/dev/vfio/2", before);
    Journal journal = laptop.journal();
    apply(own_node(2), kernel, context(), journal);
    CHECK(kernel.owner("/dev/vfio/2") == to);
    kernel.set_owner("/dev/vfio/2", half);
    CHECK(undo_all(kernel, journal).code == ExitCode::ended);
    CHECK(kernel.owner("/dev/vfio/2") == before);
  }
  for (const Owner& others : {Owner{1234, 99, 0600}, Owner{1234, 1234, 0666}, Owner{7, 44, 0660}}) {
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    kernel.set_owner("/dev/vfio/2", before);
    Journal journal = laptop.journal();
    apply(own_node(2), kernel, context(), journal);
    kernel.set_owner("/dev/vfio/2", others);
    CHECK(undo_all(kernel, journal).code == ExitCode::host_not_restored);
    CHECK(kernel.owner("/dev/vfio/2") == others);
  }
}

TEST_CASE("steps: what another VM has by now is not put back from under it", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all({override_driver(kGpu, "nouveau")}, kernel, journal));
  }
  const auto changed = tests::snapshot(laptop.tree);
  {
    const AnotherProcess other(
        [&] { return Lock::take(laptop.state.path(), "0000:01:00.0", kRun); });
    const auto undone = recover_vm(kernel, laptop.folders(), "vm");
    REQUIRE(undone);
    CHECK(undone->code == ExitCode::held);
    CHECK(undone->again);
    REQUIRE(undone->leftovers.size() == 1);
    CHECK(undone->leftovers[0] ==
          "Cannot take 0000:01:00.0: a VM that runs has it (its guardian is pid " +
              std::to_string(other.pid()) + "); stop that first");
    CHECK(tests::difference(changed, tests::snapshot(laptop.tree)) == "");
  }
  CHECK(recover_vm(kernel, laptop.folders(), "vm").value().code == ExitCode::ended);
  CHECK(laptop.state.names().empty());
}

TEST_CASE("steps: what was put back already may be another VM's by now", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all({override_driver(kGpu, "nouveau"), override_driver(kSound, "snd_hda_intel")},
                      kernel,
                      journal));
    journal.settle(0);
  }
  const AnotherProcess other([&] { return Lock::take(laptop.state.path(), "0000:01:00.0", kRun); });
  CHECK(recover_vm(kernel, laptop.folders(), "vm").value().code == ExitCode::ended);
}

TEST_CASE("lock: a recovery that has it is waited for, and a run is not", "[steps]") {
  const Folder folder;
  const auto take = [&](Lock::Purpose purpose) {
    return [&folder, purpose] { return Lock::take(folder.path(), "vm", purpose); };
  };
  {
    const AnotherProcess run(take(kRun));
    CHECK(Lock::describe_holder(folder.path(), "vm") ==
          " (its guardian is pid " + std::to_string(run.pid()) + ")");
    CHECK_FALSE(Lock::take(folder.path(), "vm", kRun));
  }
  auto recovery = std::make_optional<AnotherProcess>(take(Lock::Purpose::recovery));
  CHECK(Lock::describe_holder(folder.path(), "vm") ==
        " (pid " + std::to_string(recovery->pid()) + " recovers it)");
  const base::Child waiting = base::fork_child("a run that waits");
  if (waiting.pid == 0) {
    ::_exit(Lock::take(folder.path(), "vm", kRun) ? 0 : 1);
  }
  CHECK_FALSE(base::reap_within(waiting.pidfd.get(), std::chrono::milliseconds(200)));
  recovery.reset();
  CHECK(base::reap_within(waiting.pidfd.get(), std::chrono::seconds(10)) == base::ExitStatus{});
}

TEST_CASE("steps: a device whose driver changed since the survey is busy, and is left alone",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  laptop.tree.bind("0000:01:00.0", "nvidia");
  Journal journal = laptop.journal();
  const Step step = bind_driver(kGpu, "nouveau");
  CHECK(tests::refusal([&] { step->check(kernel); }) ==
        "11: Cannot take 0000:01:00.0: it has nvidia now, and had nouveau a moment ago; try again");
  CHECK_THROWS_AS(apply(step, kernel, context(), journal), Failure);
  CHECK(kernel.count() == 0);
  CHECK(journal.entries().empty());
}

TEST_CASE("lock: what the dead have left is cleared away, and what the living have is not",
          "[steps]") {
  const Folder folder;
  folder.write("0000:01:00.0.lock", "", 0600);
  folder.write("vm.lock", "recovery", 0600);
  folder.write("other", "", 0600);
  REQUIRE(::mkdir(folder.file("broken.lock").c_str(), 0700) == 0);
  const AnotherProcess run([&] { return Lock::take(folder.path(), "runs", kRun); });
  Lock::clear(folder.path());
  CHECK(folder.names() == std::vector<std::string>{"broken.lock", "other", "runs.lock"});
  CHECK(Lock::holder(folder.path(), "runs") == run.pid());
}

TEST_CASE("steps: an override that could not be put back is no override to change", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  laptop.tree.write(laptop.tree.device("0000:01:00.0") + "/driver_override", "a/b\n");
  Journal journal = laptop.journal();
  CHECK_THROWS_AS(apply(override_driver(kGpu, "nouveau"), kernel, context(), journal), Failure);
  CHECK(kernel.count() == 0);
  CHECK(journal.entries().empty());
}

TEST_CASE("steps: no record makes root remove or empty a folder that is not a VM's cgroup",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  for (const char* path : {"/etc",
                           "/sys/fs/cgroup/system.slice",
                           "/sys/fs/cgroup/vmlaunch-",
                           "/sys/fs/cgroup/vmlaunch-a/../b",
                           "vmlaunch-a"}) {
    INFO(path);
    Journal journal = laptop.journal();
    journal.begin(make_cgroup("vm"), {{"path", path}, {"made", true}});
    journal.begin(start_qemu(true), {{"cgroup", path}, {"pid", 0U}, {"start", 0U}});
    const Undone undone = undo_all(kernel, journal);
    CHECK(undone.code == ExitCode::host_not_restored);
    CHECK(undone.leftovers.at(0) == "start QEMU: not a VM's cgroup");
    CHECK(kernel.count() == 0);
    journal.remove();
  }
}

TEST_CASE("steps: a node of another owner changes hands without the right to any file", "[steps]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const Folder folder;
  const std::string node = folder.write("node", "", 0660);
  REQUIRE(::chown(node.c_str(), 1000, 44) == 0);
  CHECK(tests::in_child([&] {
          sandbox::keep_only({CAP_CHOWN});
          Host host;
          host.set_owner(node, {1234, 1234, 0600});
          host.set_owner(node, {1000, 44, 0660});
          return "done";
        }) == "done");
  CHECK(Host().owner(node) == Owner{1000, 44, 0660});
}

TEST_CASE("steps: a device that went away is named, and the rest is restored", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({override_driver(kGpu, "nouveau"),
                     bind_driver(kGpu, "nouveau"),
                     override_driver(kSound, "snd_hda_intel"),
                     bind_driver(kSound, "snd_hda_intel")},
                    kernel,
                    journal));
  laptop.tree.remove("/sys/bus/pci/devices/0000:01:00.0");
  const Undone undone = undo_all(kernel, journal);
  REQUIRE(undone.leftovers.size() == 2);
  CHECK(undone.leftovers[0].find("0000:01:00.0 is gone") != std::string::npos);
  CHECK(kernel.tree().link_name("/sys/bus/pci/devices/0000:01:00.1/driver") == "snd_hda_intel");
}

TEST_CASE("steps: behind a call that is stuck nothing is forced, and the journal stays",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  const std::vector<Step> steps = {make_cgroup("vm"),
                                   keep_awake(kSound),
                                   keep_awake(kGpu),
                                   override_driver(kGpu, "nouveau"),
                                   bind_driver(kGpu, "nouveau")};
  const int changes = changes_of(steps);
  kernel.fail_at(changes - 1, Fault::stuck);  // the unbind
  CHECK_THROWS_AS(
      [&] {
        for (const Step& step : steps) {
          apply(step, kernel, context(), journal);
        }
      }(),
      Stuck);
  const int before = kernel.count();
  const Undone undone = undo_all(kernel, journal, {"0000:01:00.0"});
  CHECK(undone.code == ExitCode::stuck);
  CHECK(undone.leftovers.size() == 3);
  CHECK(undone.restored.size() == 2);
  CHECK(kernel.count() == before + 3);  // the sound's two settings and the cgroup
  CHECK(kernel.tree().read("/sys/bus/pci/devices/0000:01:00.0/driver_override") == "vfio-pci");
  CHECK(laptop.state.names() == std::vector<std::string>{"vm"});
}

TEST_CASE("steps: a FIFO in an attribute's place ends at the deadline", "[steps]") {
  Laptop laptop;
  const std::string gpu = laptop.tree.device("0000:01:00.0");
  laptop.tree.fifo(gpu + "/driver_override");
  Host::Deadlines deadlines;
  deadlines.attribute = base::Milliseconds(200);
  Host host(laptop.tree.root(), deadlines);
  const auto start = std::chrono::steady_clock::now();
  CHECK_THROWS_AS(host.write("/sys/bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci"),
                  Stuck);
  Journal journal = laptop.journal();
  try {
    apply(override_driver(kGpu, "nouveau"), host, context(), journal);
    FAIL("it was applied");
  } catch (const Stuck& stuck) {
    CHECK(stuck.code() == ExitCode::stuck);
    const std::string text = stuck.what();
    CHECK(text.find("driver_override") != std::string::npos);
    CHECK(text.find("has not come back for 200ms") != std::string::npos);
  }
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(5));
}

TEST_CASE("steps: an attribute that refuses says what was written where", "[steps]") {
  const Laptop laptop;
  Host host(laptop.tree.root(), {});
  try {
    host.write("/sys/bus/pci/devices/0000:01:00.0/nothing", "a\x1b");
    FAIL("it was written");
  } catch (const std::system_error& error) {
    CHECK(error.code().value() == ENOENT);
    CHECK(std::string(error.what()).find("write \"a\\x1b\" to ") != std::string::npos);
  }
}

TEST_CASE("steps: while QEMU may live no device is touched", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(
      apply_all({make_cgroup("vm"), override_driver(kGpu, "nouveau"), bind_driver(kGpu, "nouveau")},
                kernel,
                journal));
  journal.begin(start_qemu(true),
                {{"cgroup", "/sys/fs/cgroup/vmlaunch-vm"}, {"pid", 0U}, {"start", 0U}});
  laptop.tree.write("/sys/fs/cgroup/vmlaunch-vm/cgroup.events", "populated 1\nfrozen 0\n");
  const auto changed = tests::snapshot(laptop.tree);
  Host::Deadlines deadlines;
  deadlines.kill = base::Milliseconds(100);
  Host host(laptop.tree.root(), deadlines);
  laptop.tree.write("/sys/fs/cgroup/vmlaunch-vm/cgroup.kill", "");
  const Undone undone = undo_all(host, journal);
  CHECK(undone.code == ExitCode::stuck);
  REQUIRE(undone.leftovers.size() == 1);
  CHECK(undone.leftovers[0].starts_with("start QEMU: Cannot end QEMU: a process in "));
  laptop.tree.remove("/sys/fs/cgroup/vmlaunch-vm/cgroup.kill");
  CHECK(tests::difference(changed, tests::snapshot(laptop.tree)).empty());
  CHECK(laptop.state.names() == std::vector<std::string>{"vm"});
}

TEST_CASE("steps: a QEMU that is left over is ended by number and start", "[steps]") {
  Laptop laptop;
  Host host;
  for (const bool same : {true, false}) {
    INFO((same ? "the same process" : "another process with its number"));
    const base::Child child = base::fork_child("a child that waits");
    if (child.pid == 0) {
      ::pause();
      ::_exit(0);
    }
    Journal journal = laptop.journal();
    Context waiting = context();
    waiting.start = [&](const std::function<void(pid_t)>& born) { born(child.pid); };
    apply(start_qemu(false), host, waiting, journal);
    if (!same) {
      journal.note(0, {{"start", 1U}});
    }
    const auto undone = recover_vm(host, laptop.folders(), "vm");
    REQUIRE(undone);
    CHECK(undone->code == ExitCode::ended);
    if (!same) {
      CHECK_FALSE(base::reap_within(child.pidfd.get(), std::chrono::milliseconds(50)));
      static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));
    }
    CHECK(base::reap_within(child.pidfd.get(), std::chrono::seconds(5)) ==
          base::ExitStatus{0, SIGKILL});
  }
}

TEST_CASE("journal: cut at any byte it holds what was written before the cut", "[steps]") {
  const Folder folder;
  std::vector<std::size_t> sizes;
  {
    Journal journal = Journal::create(folder.path(), "vm");
    const auto note_size = [&] { sizes.push_back(text_of(folder.file("vm")).size()); };
    note_size();
    journal.begin(make_cgroup("vm"), {{"path", "/x"}, {"made", true}});
    note_size();
    journal.begin(start_qemu(true), {{"cgroup", "/x"}, {"pid", 0U}, {"start", 0U}});
    note_size();
    journal.note(1, {{"pid", 17U}});
    note_size();
    journal.settle(1);
    note_size();
  }
  const std::string whole = text_of(folder.file("vm"));
  REQUIRE(sizes.back() == whole.size());
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    INFO(length);
    folder.write("vm", whole.substr(0, length), 0600);
    const auto journal = Journal::open(folder.path(), "vm");
    REQUIRE(journal);
    const auto& entries = journal->entries();
    CHECK(entries.size() == static_cast<std::size_t>(length >= sizes[1]) +
                                static_cast<std::size_t>(length >= sizes[2]));
    if (entries.size() == 2) {
      CHECK(entries[1].found.at("pid") == (length >= sizes[3] ? 17U : 0U));
      CHECK(entries[1].settled == (length >= sizes[4]));
      CHECK_FALSE(entries[0].settled);
    }
    // To look changes nothing.
    CHECK(text_of(folder.file("vm")).size() == length);
  }
}

TEST_CASE("journal: behind a line that was cut off the next one stands alone", "[steps]") {
  const Folder folder;
  { Journal::create(folder.path(), "vm").begin(make_cgroup("vm"), Json::object()); }
  const std::string whole = text_of(folder.file("vm"));
  folder.write("vm", whole + whole.substr(0, 20), 0600);
  { Journal::open(folder.path(), "vm")->begin(load_vfio(), Json::object()); }
  CHECK(Journal::open(folder.path(), "vm")->entries().size() == 2);
}

TEST_CASE("journal: a line that a full disk cut off counts for nothing", "[steps]") {
  const Folder folder;
  Journal journal = Journal::create(folder.path(), "vm");
  journal.begin(make_cgroup("vm"), Json::object());
  {
    const FullDisk full(text_of(folder.file("vm")).size() + 10);
    CHECK_THROWS_AS(journal.begin(load_vfio(), Json::object()), std::system_error);
  }
  CHECK(journal.entries().size() == 1);
  journal.begin(load_vfio(), Json::object());
  CHECK(Journal::open(folder.path(), "vm")->entries().size() == 2);
}

TEST_CASE("journal: garbage is reported and kept, and nothing of it is executed", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all({keep_awake(kGpu), override_driver(kGpu, "nouveau")}, kernel, journal));
  }
  const auto changed = tests::snapshot(laptop.tree);
  const std::string whole = text_of(laptop.state.file("vm"));
  std::vector<std::string> damaged = {
      "garbage\n", whole + "x\n", "\n" + whole, whole + whole, whole.substr(whole.find('\n') + 1)};
  for (std::size_t i = 0; i < whole.size(); i += 7) {
    std::string one = whole;
    one[i] = one[i] == '\n' ? ' ' : static_cast<char>(one[i] ^ 1);
    damaged.push_back(one);
  }
  for (const std::string& text : damaged) {
    INFO(text);
    laptop.state.write("vm", text, 0600);
    const auto undone = recover_vm(kernel, laptop.folders(), "vm");
    REQUIRE(undone);
    CHECK(undone->code == ExitCode::host_not_restored);
    REQUIRE(undone->leftovers.size() == 1);
    CHECK(undone->leftovers[0].starts_with("Cannot use the journal " + laptop.state.file("vm")));
    CHECK(text_of(laptop.state.file("vm")) == text);
    CHECK(tests::difference(changed, tests::snapshot(laptop.tree)).empty());
  }
}

TEST_CASE("journal: only a file of ours that others cannot write is believed", "[steps]") {
  const Folder folder;
  { Journal::create(folder.path(), "vm").begin(load_vfio(), Json::object()); }
  const std::string path = folder.file("vm");
  const auto refused = [&] {
    try {
      static_cast<void>(Journal::open(folder.path(), "vm"));
      return false;
    } catch (const JournalError&) {
      return true;
    }
  };
  CHECK_FALSE(refused());
  for (const mode_t mode : {0620U, 0602U, 0640U}) {
    REQUIRE(::chmod(path.c_str(), mode) == 0);
    CHECK(refused());
  }
  REQUIRE(::rename(path.c_str(), folder.file("other").c_str()) == 0);
  REQUIRE(::chmod(folder.file("other").c_str(), 0600) == 0);
  REQUIRE(::symlink("other", path.c_str()) == 0);
  CHECK(refused());
  REQUIRE(::unlink(path.c_str()) == 0);
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  CHECK(refused());
}

TEST_CASE("journal: one of an earlier boot is dropped and undoes nothing", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all({keep_awake(kGpu)}, kernel, journal));
  }
  // Written as another boot would have: the header's line with another id and its checksum.
  const std::string path = laptop.state.file("vm");
  const std::string whole = text_of(path);
  const std::string header = whole.substr(0, whole.find('\n'));
  const Json first = Json::parse(header.substr(9));
  REQUIRE(::unlink(path.c_str()) == 0);
  const std::string other = R"({"boot":"another","journal":1,"vm":"vm"})";
  CHECK(first.at("journal") == 1);
  laptop.state.write("vm", "39fbf330 " + other + "\n" + whole.substr(whole.find('\n') + 1), 0600);
  const auto changed = tests::snapshot(laptop.tree);
  const auto undone = recover_vm(kernel, laptop.folders(), "vm");
  REQUIRE(undone);
  INFO((undone->leftovers.empty() ? "" : undone->leftovers[0]));
  CHECK(undone->code == ExitCode::ended);
  CHECK(undone->restored.empty());
  CHECK(tests::difference(changed, tests::snapshot(laptop.tree)).empty());
  CHECK(laptop.state.names().empty());
}

TEST_CASE("lock: a VM has one run, and a dead one's lock is free", "[steps]") {
  const Folder folder;
  {
    const AnotherProcess other([&] { return Lock::take(folder.path(), "vm", kRun); });
    CHECK_FALSE(Lock::take(folder.path(), "vm", kRun).has_value());
    CHECK(Lock::holder(folder.path(), "vm") == other.pid());
    CHECK(Lock::take(folder.path(), "other", kRun).has_value());
  }
  CHECK_FALSE(Lock::holder(folder.path(), "vm").has_value());
  { CHECK(Lock::take(folder.path(), "vm", kRun).has_value()); }
  CHECK(folder.names().empty());
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
