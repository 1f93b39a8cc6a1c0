#include "launcher/steps/steps.hpp"

#include <linux/capability.h>
#include <unistd.h>

#include <filesystem>

#include "sandbox/privileges.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

const std::string kMac = "52:54:00:00:00:01";

TEST_CASE("steps: each is read back, and others of its kind are others", "[steps]") {
  const std::vector<Step> steps = {make_cgroup("a"),
                                   make_cgroup("b"),
                                   set_parameter("kvm.ignore_msrs", true),
                                   set_parameter("kvm.ignore_msrs", false),
                                   set_parameter("kvm.report_ignored_msrs", true),
                                   set_tunable(Tunable::rt_throttling),
                                   set_tunable(Tunable::statistics),
                                   set_tunable(Tunable::halt_polling),
                                   enable_controllers(),
                                   enable_controllers_of_unit(100),
                                   enable_controllers_of_unit(200),
                                   weigh_cgroup("a", 100),
                                   weigh_cgroup("b", 100),
                                   weigh_cgroup("a", 10000),
                                   isolate_cpus("a", {2}),
                                   isolate_cpus("b", {2}),
                                   isolate_cpus("a", {2, 3}),
                                   confine_host({2}),
                                   confine_host({2, 3}),
                                   take_cpus({2}),
                                   take_cpus({2, 3}),
                                   move_interrupts({2}),
                                   move_interrupts({2, 3}),
                                   move_work_queues({2}),
                                   move_work_queues({2, 3}),
                                   move_kernel_threads({2}),
                                   move_kernel_threads({2, 3}),
                                   tune_cpus(CpuTuning::frequency, {2}),
                                   tune_cpus(CpuTuning::fair_server, {2}),
                                   tune_cpus(CpuTuning::frequency, {2, 3}),
                                   fill_pool({0, {2 * base::kMiB}, 5}),
                                   fill_pool({1, {2 * base::kMiB}, 5}),
                                   fill_pool({0, {base::kGiB}, 5}),
                                   fill_pool({0, {2 * base::kMiB}, 6}),
                                   fill_pool({0, {2 * base::kMiB}, 5, false}),
                                   fill_pool({0, {2 * base::kMiB}, 5, true, true}),
                                   load_driver("vfio-pci"),
                                   load_driver("pci-stub"),
                                   bind_driver(kGpu, "nouveau", "pci-stub"),
                                   override_driver(kGpu, "nouveau", "pci-stub"),
                                   rescan_card({kGpu}),
                                   rescan_card({kGpu, kSound}),
                                   reset_card({kGpu}, {}),
                                   reset_card({kGpu, kSound}, {}),
                                   reset_card({kGpu}, {true, {}}),
                                   reset_card({kGpu}, {false, {config::ResetRung::rescan}}),
                                   reset_card({kGpu}, {false, {config::ResetRung::bridge}}),
                                   reset_card({kGpu}, {}, true),
                                   keep_awake(kGpu),
                                   keep_awake(kSound),
                                   set_reset_method(kGpu),
                                   set_reset_method(kSound),
                                   load_driver(kVendorReset),
                                   override_driver(kGpu, "", "vfio-pci"),
                                   override_driver(kGpu, "nouveau", "vfio-pci"),
                                   override_driver(kSound, "", "vfio-pci"),
                                   await_release(kGpu, base::Milliseconds(0)),
                                   await_release(kGpu, base::Milliseconds(15000)),
                                   await_release(kSound, base::Milliseconds(0)),
                                   bind_driver(kGpu, "", "vfio-pci"),
                                   bind_driver(kGpu, "nouveau", "vfio-pci"),
                                   bind_driver(kSound, "", "vfio-pci"),
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
                                   make_tap("a", {0, "br0", false}, kMac),
                                   make_tap("b", {0, "br0", false}, kMac),
                                   make_tap("a", {1, "br0", false}, kMac),
                                   make_tap("a", {0, "br1", false}, kMac),
                                   make_tap("a", {0, "br0", true}, kMac),
                                   make_macvtap("a", {0, "br0", false}, kMac),
                                   make_macvtap("a", {0, "br0", false}, "52:54:00:00:00:02"),
                                   use_tap({0, "br0", false}),
                                   use_tap({0, "tap0", false}),
                                   lend_usb(config::UsbIds{0x046d, 0xc051}, false),
                                   lend_usb(config::UsbPort{1, {2, 3}}, false),
                                   lend_usb(config::UsbAddress{1, 4}, false),
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

TEST_CASE("steps: a device whose driver changed since the survey is busy, and is left alone",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  laptop.tree.bind("0000:01:00.0", "nvidia");
  Journal journal = laptop.journal();
  const Step step = bind_driver(kGpu, "nouveau", "vfio-pci");
  CHECK(vmlaunch::tests::refusal([&] { step->check(kernel); }) ==
        "11: Cannot take 0000:01:00.0: it has nvidia now, and had nouveau a moment ago; try again");
  CHECK_THROWS_AS(apply(step, kernel, context(), journal), Failure);
  CHECK(kernel.count() == 0);
  CHECK(journal.entries().empty());
}

TEST_CASE("steps: a card that is found anew has its settings and its driver, and nobody else's",
          "[steps]") {
  for (const bool comes_back : {true, false}) {
    INFO((comes_back ? "it comes back" : "a part of it is lost"));
    Laptop laptop;
    laptop.tree.bind("0000:01:00.0", "vfio-pci");
    laptop.tree.bind("0000:01:00.1", "vfio-pci");
    for (const char* address : {"0000:01:00.0", "0000:01:00.1"}) {
      laptop.tree.write(laptop.tree.device(address) + "/driver_override", "vfio-pci\n");
      laptop.tree.write(laptop.tree.device(address) + "/power/control", "on\n");
    }
    laptop.tree.write("/dev/vfio/2", "");
    FakeKernel kernel(laptop.tree);
    Journal journal = laptop.journal();
    const auto before = vmlaunch::tests::snapshot(laptop.tree);
    const Step step = rescan_card({kGpu, kSound});
    if (!comes_back) {
      kernel.lose("0000:01:00.1");
      CHECK_THROWS_AS(apply(step, kernel, context(), journal), Failure);
      CHECK(undo_all(kernel, journal)
                .leftovers.at(0)
                .ends_with(
                    "the PCI device 0000:01:00.1 is gone; type: echo 1 > /sys/bus/pci/rescan"));
      continue;
    }
    apply(step, kernel, context(), journal);
    CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)) == "");
    // What somebody else does with the card from then on is not this step's.
    laptop.tree.bind("0000:01:00.0", "nouveau");
    const auto theirs = vmlaunch::tests::snapshot(laptop.tree);
    CHECK(undo_all(kernel, journal).code == ExitCode::ended);
    CHECK(vmlaunch::tests::difference(theirs, vmlaunch::tests::snapshot(laptop.tree)) == "");
  }
}

TEST_CASE("steps: only the functions of one card are found anew", "[steps]") {
  for (const char* functions : {R"([])",
                                R"(["0000:01:00.0", "0000:02:00.0"])",
                                R"(["0000:01:00.0", "0000:01:01.0"])",
                                R"(["01:00"])"}) {
    INFO(functions);
    CHECK_THROWS_AS(read_step({{"kind", "rescan-card"}, {"functions", Json::parse(functions)}}),
                    FormError);
  }
}

TEST_CASE("steps: an override that could not be put back is no override to change", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  laptop.tree.write(laptop.tree.device("0000:01:00.0") + "/driver_override", "a/b\n");
  Journal journal = laptop.journal();
  CHECK_THROWS_AS(apply(override_driver(kGpu, "nouveau", "vfio-pci"), kernel, context(), journal),
                  Failure);
  CHECK(kernel.count() == 0);
  CHECK(journal.entries().empty());
}

TEST_CASE(
    "steps: a link that is made has a name of at most 15 characters, and a VM's and NIC's own",
    "[steps]") {
  CHECK(own_link_name("win10", 0) == "win10-b218-0");
  CHECK(own_link_name(std::string(64, 'a'), 7).size() == 15);
  CHECK(own_link_name("a.b", 0).starts_with("a_b-"));
  CHECK(own_link_name("windows-10", 0) != own_link_name("windows-11", 0));
  CHECK(own_link_name("win10", 0) != own_link_name("win10", 1));
}

TEST_CASE("steps: a parameter that the kernel takes at its start only is refused before any change",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  const auto refused = [&](bool on) {
    return vmlaunch::tests::refusal([&] { set_parameter("kvm.ignore_msrs", on)->check(kernel); });
  };
  CHECK(refused(true) == "nothing");
  std::filesystem::permissions(laptop.tree.root() + "/sys/module/kvm/parameters/ignore_msrs",
                               std::filesystem::perms(0444));
  CHECK(refused(true) ==
        "10: Cannot set the module parameter kvm.ignore_msrs to Y: this kernel takes it only when "
        "it loads the module; add to the kernel's command line: kvm.ignore_msrs=Y");
  CHECK(refused(false) == "nothing");
}

TEST_CASE("steps: a value of the kernel's comes back as it was, unless somebody changed it again",
          "[steps]") {
  const std::string path = "/proc/sys/kernel/sched_rt_runtime_us";
  const Step step = set_tunable(Tunable::rt_throttling);
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  laptop.tree.remove(path);
  CHECK(vmlaunch::tests::refusal([&] {
          step->check(kernel);
        }).ends_with("this kernel has no such file; type: ls " + path));
  for (const char* before : {"950000", "-1", "123"}) {
    INFO(before);
    laptop.tree.write(path, std::string(before) + "\n");
    Journal journal = laptop.journal();
    apply(step, kernel, context(), journal);
    CHECK(kernel.tree().read(path) == "-1");
    CHECK(undo_all(kernel, journal).code == ExitCode::ended);
    CHECK(kernel.tree().read(path) == before);
  }
  Journal journal = laptop.journal();
  apply(step, kernel, context(), journal);
  laptop.tree.write(path, "500000\n");
  CHECK(undo_all(kernel, journal).leftovers.at(0).ends_with(path + " is 500000, and was 123"));
  CHECK(kernel.tree().read(path) == "500000");
  CHECK_THROWS_AS(read_step({{"kind", "set-tunable"}, {"name", "watchdog"}}), FormError);
}

TEST_CASE("steps: a link whose name somebody else has is not made", "[steps]") {
  for (const Step& step :
       {make_tap("vm", {0, "br0", false}, kMac), make_macvtap("vm", {0, "br0", false}, kMac)}) {
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    const std::string name = own_link_name("vm", 0);
    laptop.tree.write("/sys/class/net/" + name + "/ifindex", "9\n");
    Journal journal = laptop.journal();
    CHECK(vmlaunch::tests::refusal([&] { step->check(kernel); }) ==
          "10: Cannot make the network link " + name +
              ": somebody else has one of that name; type: ip -d link show " + name);
    CHECK_THROWS_AS(apply(step, kernel, context(), journal), Failure);
    CHECK(kernel.count() == 0);
  }
}

TEST_CASE("steps: only the macvtap that was made is removed", "[steps]") {
  const Step step = make_macvtap("vm", {0, "br0", false}, kMac);
  const std::string folder = "/sys/class/net/" + own_link_name("vm", 0);
  struct Row {
    const char* file;
    const char* content;
  };
  for (const Row& row : {Row{"/ifindex", "99\n"}, Row{"/address", "52:54:00:00:00:02\n"}}) {
    INFO(row.file);
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    Journal journal = laptop.journal();
    apply(step, kernel, context(), journal);
    laptop.tree.write(folder + row.file, row.content);
    const Undone undone = undo_all(kernel, journal);
    CHECK(undone.code == ExitCode::host_not_restored);
    CHECK(undone.leftovers.at(0).find("is not the one that was made") != std::string::npos);
    CHECK(kernel.tree().exists(folder));
  }
  // Killed between the making and the note.
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  apply(step, kernel, context(), journal);
  journal.note(0, {{"index", 0U}});
  CHECK(undo_all(kernel, journal).code == ExitCode::ended);
  CHECK_FALSE(kernel.tree().exists(folder));
}

TEST_CASE("steps: what is no tap is not opened as one", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  const Step step = use_tap({0, "tap0", false});
  const auto refused = [&] { return vmlaunch::tests::refusal([&] { step->check(kernel); }); };
  CHECK(refused() == "10: Cannot find the network link tap0; type: ip -br link");
  laptop.tree.remove("/dev/net/tun");
  CHECK(refused() == "10: Cannot open a tap: there is no /dev/net/tun; type: sudo modprobe tun");
  laptop.tree.write("/dev/net/tun", "");
  laptop.tree.write("/sys/class/net/tap0/tun_flags", "0x1001\n");  // a tun: packets, no frames
  CHECK(refused().find("it is no tap") != std::string::npos);
  laptop.tree.write("/sys/class/net/tap0/tun_flags", "0x1002\n");
  CHECK(refused() == "nothing");
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
    apply(override_driver(kGpu, "nouveau", "vfio-pci"), host, context(), journal);
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

TEST_CASE("steps: an attribute that is shown under a lock is read, and a missing one told",
          "[steps]") {
  const Laptop laptop;
  const Host host(laptop.tree.root(), {});
  CHECK(host.read_locked("/sys/bus/pci/devices/0000:01:00.0/vendor") == "0x10de");
  try {
    static_cast<void>(host.read_locked("/sys/bus/pci/devices/0000:01:00.0/nothing"));
    FAIL("it was read");
  } catch (const std::system_error& error) {
    CHECK(error.code().value() == ENOENT);
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
