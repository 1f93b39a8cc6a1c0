#include "launcher/steps/steps.hpp"

#include <linux/capability.h>
#include <unistd.h>

#include "sandbox/privileges.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

TEST_CASE("steps: each is read back, and others of its kind are others", "[steps]") {
  const std::vector<Step> steps = {make_cgroup("a"),
                                   make_cgroup("b"),
                                   set_parameter("kvm.ignore_msrs", true),
                                   set_parameter("kvm.ignore_msrs", false),
                                   set_parameter("kvm.report_ignored_msrs", true),
                                   fill_pool({0, {2 * base::kMiB}, 5}),
                                   fill_pool({1, {2 * base::kMiB}, 5}),
                                   fill_pool({0, {base::kGiB}, 5}),
                                   fill_pool({0, {2 * base::kMiB}, 6}),
                                   fill_pool({0, {2 * base::kMiB}, 5, false}),
                                   fill_pool({0, {2 * base::kMiB}, 5, true, true}),
                                   load_vfio(),
                                   keep_awake(kGpu),
                                   keep_awake(kSound),
                                   override_driver(kGpu, ""),
                                   override_driver(kGpu, "nouveau"),
                                   override_driver(kSound, ""),
                                   await_release(kGpu, base::Milliseconds(0)),
                                   await_release(kGpu, base::Milliseconds(15000)),
                                   await_release(kSound, base::Milliseconds(0)),
                                   bind_driver(kGpu, ""),
                                   bind_driver(kGpu, "nouveau"),
                                   bind_driver(kSound, ""),
                                   own_node(0),
                                   own_node(1),
                                   make_cgroup("a", true),
                                   stop_unit("a.service", {}),
                                   stop_unit("b.service", {}),
                                   stop_unit("a.service", {{kGpu, "nouveau"}}),
                                   stop_unit("a.service", {{kGpu, "nvidia"}}),
                                   stop_unit("a.service", {{kSound, "nouveau"}}),
                                   release_console(),
                                   release_framebuffer("efi-framebuffer.0", kGpu),
                                   release_framebuffer("efi-framebuffer.1", kGpu),
                                   release_framebuffer("efi-framebuffer.0", kSound),
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

TEST_CASE("steps: a device whose driver changed since the survey is busy, and is left alone",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  laptop.tree.bind("0000:01:00.0", "nvidia");
  Journal journal = laptop.journal();
  const Step step = bind_driver(kGpu, "nouveau");
  CHECK(vmlaunch::tests::refusal([&] { step->check(kernel); }) ==
        "11: Cannot take 0000:01:00.0: it has nvidia now, and had nouveau a moment ago; try again");
  CHECK_THROWS_AS(apply(step, kernel, context(), journal), Failure);
  CHECK(kernel.count() == 0);
  CHECK(journal.entries().empty());
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
  if (vmlaunch::tests::skipped_without_root()) {
    return;
  }
  const Folder folder;
  const std::string node = folder.write("node", "", 0660);
  REQUIRE(::chown(node.c_str(), 1000, 44) == 0);
  CHECK(vmlaunch::tests::in_child([&] {
          sandbox::keep_only({CAP_CHOWN});
          Host host;
          host.set_owner(node, {1234, 1234, 0600});
          host.set_owner(node, {1000, 44, 0660});
          return "done";
        }) == "done");
  CHECK(Host().owner(node) == Owner{1000, 44, 0660});
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

}  // namespace
}  // namespace vmlaunch::launcher::steps
