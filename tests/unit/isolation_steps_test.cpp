// Steps that keep the host off a guest's CPUs, on a built tree.

#include <sys/stat.h>

#include <string>
#include <vector>

#include "base/errors.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

/// A laptop whose steps' words are kept.
struct Scene {
  Laptop laptop;
  FakeKernel kernel{laptop.tree};
  std::vector<std::string> told;

  [[nodiscard]] Context context() {
    Context context = tests::context();
    context.waiting = [this](const std::string& text) { told.push_back(text); };
    return context;
  }
  [[nodiscard]] std::string read(const std::string& path) const {
    return kernel.tree().read(path).value_or("none");
  }
  void write(const std::string& path, const std::string& value) const {
    laptop.tree.write(path, value + "\n");
  }
};

const std::string kDisk = "/proc/irq/24/smp_affinity_list";
const std::string kUnused = "/proc/irq/25/smp_affinity_list";
const std::string kNic = "/proc/irq/26/smp_affinity_list";
const std::string kCpu2 = "/sys/devices/system/cpu/cpu2/cpufreq";

const std::string kDefault = "/proc/irq/default_smp_affinity";
const std::string kQueues = "/sys/devices/virtual/workqueue/cpumask";

/// Of a kernel thread's status.
std::string place_of(const Scene& scene, const std::string& thread) {
  const std::string status = scene.read("/proc/" + thread + "/status");
  const std::size_t begin = status.find("list:\t") + 6;
  return status.substr(begin, status.find('\n', begin) - begin);
}

void move_thread(const Scene& scene, const std::string& thread, const std::string& cpus) {
  scene.laptop.tree.write("/proc/" + thread + "/status",
                          "Name:\trcuo/2\nCpus_allowed_list:\t" + cpus + "\n");
}

TEST_CASE("interrupts: CPUs are taken out of each, and one that would have none goes elsewhere",
          "[steps]") {
  Scene scene;
  const auto before = vmlaunch::tests::snapshot(scene.laptop.tree);
  Journal journal = scene.laptop.journal();
  apply(move_interrupts({2, 3}), scene.kernel, scene.context(), journal);
  CHECK(scene.read(kDisk) == "0-1");
  CHECK(scene.read(kNic) == "0-1");  // it was on 2 alone
  CHECK(scene.read(kUnused) == "0-3");
  CHECK(scene.read(kDefault) == "3");
  CHECK(scene.told.empty());
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(scene.laptop.tree)) == "");
}

TEST_CASE("interrupts: one that would have none goes where new ones go", "[steps]") {
  Scene scene;
  scene.write(kDefault, "d");  // 0, 2 and 3
  Journal journal = scene.laptop.journal();
  apply(move_interrupts({2, 3}), scene.kernel, scene.context(), journal);
  CHECK(scene.read(kNic) == "0");
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.read(kNic) == "2");
}

TEST_CASE("interrupts: what the kernel does not take is told, and the rest is done", "[steps]") {
  Scene scene;
  REQUIRE(::chmod(scene.laptop.tree.path_of(kNic).c_str(), 0444) == 0);
  Journal journal = scene.laptop.journal();
  apply(move_interrupts({2}), scene.kernel, scene.context(), journal);
  REQUIRE(scene.told.size() == 1);
  CHECK(scene.told[0].starts_with("the interrupts 26 stay on the guest's CPUs"));
  CHECK(scene.read(kDisk) == "0-1,3");
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.read(kDisk) == "0-3");
  CHECK(scene.read(kNic) == "2");
}

TEST_CASE("interrupts: two VMs give back each its own CPUs, in whatever order they end",
          "[steps]") {
  for (const bool a_first : {true, false}) {
    INFO(a_first);
    Scene scene;
    const auto before = vmlaunch::tests::snapshot(scene.laptop.tree);
    Journal a = scene.laptop.journal("a");
    Journal b = scene.laptop.journal("b");
    apply(move_interrupts({2}), scene.kernel, scene.context(), a);
    CHECK(scene.read(kNic) == "0-1,3");
    apply(move_interrupts({3}), scene.kernel, scene.context(), b);
    CHECK(scene.read(kDisk) == "0-1");
    CHECK(scene.read(kNic) == "0-1");
    CHECK(undo_all(scene.kernel, a_first ? a : b).code == ExitCode::ended);
    CHECK(scene.read(kDisk) == (a_first ? "0-2" : "0-1,3"));
    CHECK(scene.read(kNic) == (a_first ? "2" : "0-1,3"));
    CHECK(undo_all(scene.kernel, a_first ? b : a).code == ExitCode::ended);
    CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(scene.laptop.tree)) == "");
  }
}

TEST_CASE("interrupts: a VM that was killed counts until it is recovered", "[steps]") {
  Scene scene;
  Journal dead = scene.laptop.journal("a");
  apply(move_interrupts({2}), scene.kernel, scene.context(), dead);
  Journal b = scene.laptop.journal("b");
  apply(move_interrupts({3}), scene.kernel, scene.context(), b);
  CHECK(undo_all(scene.kernel, b).code == ExitCode::ended);
  CHECK(scene.read(kDisk) == "0-1,3");
  CHECK(recover_vm(scene.kernel, scene.laptop.folders(), "a").value().code == ExitCode::ended);
  CHECK(scene.read(kDisk) == "0-3");
}

TEST_CASE("interrupts: one that comes meanwhile is where it would have been", "[steps]") {
  Scene scene;
  Journal a = scene.laptop.journal("a");
  apply(move_interrupts({2}), scene.kernel, scene.context(), a);
  scene.write("/proc/irq/27/smp_affinity_list", "0-1,3");
  scene.laptop.tree.folder("/proc/irq/27/xhci_hcd");
  SECTION("while one VM runs") {
    CHECK(undo_all(scene.kernel, a).code == ExitCode::ended);
  }
  SECTION("while another begins, too") {
    Journal b = scene.laptop.journal("b");
    apply(move_interrupts({3}), scene.kernel, scene.context(), b);
    CHECK(scene.read("/proc/irq/27/smp_affinity_list") == "0-1");
    CHECK(undo_all(scene.kernel, a).code == ExitCode::ended);
    CHECK(scene.read("/proc/irq/27/smp_affinity_list") == "0-2");  // the other knows of it
    CHECK(undo_all(scene.kernel, b).code == ExitCode::ended);
  }
  CHECK(scene.read("/proc/irq/27/smp_affinity_list") == "0-3");
}

TEST_CASE("interrupts: what somebody else moved meanwhile is left, and named", "[steps]") {
  Scene scene;
  Journal journal = scene.laptop.journal();
  apply(move_interrupts({2}), scene.kernel, scene.context(), journal);
  scene.write(kDisk, "1");
  const Undone undone = undo_all(scene.kernel, journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  REQUIRE(undone.leftovers.size() == 1);
  CHECK(undone.leftovers[0] ==
        "changed by somebody else meanwhile, and left: the interrupt 24 is on 1, and was on 0-3");
  CHECK_FALSE(undone.again);
  CHECK(scene.read(kDisk) == "1");
  CHECK(scene.read(kNic) == "2");
}

TEST_CASE("interrupts: those that nobody took from our CPUs may be moved by anybody", "[steps]") {
  Scene scene;
  scene.write(kDisk, "0-1");
  Journal journal = scene.laptop.journal();
  apply(move_interrupts({2}), scene.kernel, scene.context(), journal);
  scene.write(kDisk, "0");
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.read(kDisk) == "0");
}

TEST_CASE("interrupts: a CPU that is offline by now is not given back, and said so", "[steps]") {
  class Offline : public FakeKernel {
   public:
    using FakeKernel::FakeKernel;
    bool is_offline = false;
    std::vector<int> write_each(
        const std::vector<std::pair<std::string, std::string>>& values) override {
      std::vector<std::pair<std::string, std::string>> taken = values;
      std::vector<int> errors(values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        errors[i] = is_offline && values[i].second == "2" ? EINVAL : 0;
      }
      std::erase_if(taken, [&](const auto& one) { return is_offline && one.second == "2"; });
      static_cast<void>(FakeKernel::write_each(taken));
      return errors;
    }
  };
  Scene scene;
  Offline kernel(scene.laptop.tree);
  Journal journal = scene.laptop.journal();
  apply(move_interrupts({2}), kernel, scene.context(), journal);
  kernel.is_offline = true;
  const Undone undone = undo_all(kernel, journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  REQUIRE(undone.leftovers.size() == 1);
  CHECK(undone.leftovers[0].ends_with(
      "26 is on 0-1,3, and was on 2: Invalid argument, as for CPUs that are offline; type: cat "
      "/sys/devices/system/cpu/online"));
  CHECK_FALSE(undone.again);
  CHECK(scene.read(kDisk) == "0-3");
}

TEST_CASE("work queues: their masks, and the watchdog's, are those that were asked for",
          "[steps]") {
  /// As Linux 6.7 has it, which keeps what was asked for beside what is left of that.
  class Telling : public FakeKernel {
   public:
    using FakeKernel::FakeKernel;
    void write(const std::string& path, const std::string& value) override {
      FakeKernel::write(path, value);
      if (path == kQueues && tree().exists(kQueues + "_requested")) {
        FakeKernel::write(kQueues + "_requested", value);
      }
    }
  };
  for (const bool tells_requested : {true, false}) {
    INFO(tells_requested);
    Scene scene;
    Telling kernel(scene.laptop.tree);
    if (tells_requested) {
      // While another VM has a partition of CPU 3.
      scene.write(kQueues + "_requested", "f");
      scene.write(kQueues, "7");
    }
    const auto before = vmlaunch::tests::snapshot(scene.laptop.tree);
    Journal journal = scene.laptop.journal();
    apply(move_work_queues({2}), kernel, scene.context(), journal);
    CHECK(scene.read(kQueues) == "b");
    CHECK(scene.read("/sys/devices/virtual/workqueue/writeback/cpumask") == "b");
    CHECK(scene.read("/proc/sys/kernel/watchdog_cpumask") == "0-1,3");
    CHECK(undo_all(kernel, journal).code == ExitCode::ended);
    CHECK(scene.read(kQueues) == "f");
    CHECK(scene.read("/proc/sys/kernel/watchdog_cpumask") == "0-3");
  }
}

TEST_CASE("systemd's units: their CPUs are without the guests', and then as they were", "[steps]") {
  Scene scene;
  scene.write("/allowed/system.slice", "");
  scene.write("/allowed/user.slice", "1-3");
  scene.write("/allowed/other.slice", "");
  const auto before = vmlaunch::tests::snapshot(scene.laptop.tree);
  Journal a = scene.laptop.journal("a");
  Journal b = scene.laptop.journal("b");
  apply(confine_host({2}), scene.kernel, scene.context(), a);
  CHECK(scene.read("/allowed/system.slice") == "0-1,3");
  CHECK(scene.read("/allowed/user.slice") == "1,3");
  apply(confine_host({3}), scene.kernel, scene.context(), b);
  CHECK(scene.read("/allowed/system.slice") == "0-1");
  CHECK(scene.read("/allowed/user.slice") == "1");
  CHECK(scene.read("/allowed/other.slice").empty());
  CHECK(undo_all(scene.kernel, a).code == ExitCode::ended);
  CHECK(scene.read("/allowed/system.slice") == "0-2");
  CHECK(undo_all(scene.kernel, b).code == ExitCode::ended);
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(scene.laptop.tree)) == "");
}

TEST_CASE("moves: a record can name nothing that is not there to be moved", "[steps]") {
  Scene scene;
  scene.laptop.tree.write("/etc/passwd", "0-1\n");
  for (const char* name : {"/etc/passwd",
                           "../../etc/passwd",
                           "24/../../../etc/passwd",
                           "/proc/sys/kernel/core_pattern"}) {
    INFO(name);
    const Json record = {{"cpus", "2-3"},
                         {"taken", "2-3"},
                         {"fallback", ""},
                         {"before", {{{"name", name}, {"cpus", "0-3"}}}}};
    for (const Step& step :
         {move_interrupts({2, 3}), move_work_queues({2, 3}), move_kernel_threads({2, 3})}) {
      step->undo(scene.kernel, record);
    }
    CHECK(scene.kernel.count() == 0);
  }
}

TEST_CASE(
    "frequency: both settings of each CPU come back as they were, whatever the driver refuses",
    "[steps]") {
  for (const bool takes_preference : {true, false}) {
    INFO(takes_preference);
    Scene scene;
    scene.write("/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "performance");
    if (!takes_preference) {
      REQUIRE(::chmod(scene.laptop.tree.path_of(kCpu2 + "/energy_performance_preference").c_str(),
                      0444) == 0);
    }
    const auto before = vmlaunch::tests::snapshot(scene.laptop.tree);
    Journal journal = scene.laptop.journal();
    apply(tune_cpus(CpuTuning::frequency, {2, 3}), scene.kernel, scene.context(), journal);
    CHECK(scene.read(kCpu2 + "/scaling_governor") == "performance");
    CHECK(scene.read(kCpu2 + "/energy_performance_preference") ==
          (takes_preference ? "performance" : "balance_power"));
    CHECK(scene.told.size() == (takes_preference ? 0 : 1));
    CHECK(scene.read("/sys/devices/system/cpu/cpu1/cpufreq/scaling_governor") == "schedutil");
    CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
    CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(scene.laptop.tree)) == "");
  }
}

TEST_CASE("frequency: what somebody else set meanwhile is left, and named", "[steps]") {
  Scene scene;
  Journal journal = scene.laptop.journal();
  apply(tune_cpus(CpuTuning::frequency, {2}), scene.kernel, scene.context(), journal);
  scene.write(kCpu2 + "/scaling_governor", "powersave");
  const Undone undone = undo_all(scene.kernel, journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  CHECK(undone.leftovers ==
        std::vector<std::string>{"changed by somebody else meanwhile, and left: " + kCpu2 +
                                 "/scaling_governor is powersave, and was schedutil"});
  CHECK(scene.read(kCpu2 + "/scaling_governor") == "powersave");
  CHECK(scene.read(kCpu2 + "/energy_performance_preference") == "balance_power");
}

TEST_CASE("kernel threads: those that may be anywhere move, those of one CPU or bound do not",
          "[steps]") {
  Scene scene;
  Journal journal = scene.laptop.journal();
  apply(move_kernel_threads({2, 3}), scene.kernel, scene.context(), journal);
  CHECK(place_of(scene, "17") == "0-1");
  CHECK(place_of(scene, "18") == "0-3");  // PF_NO_SETAFFINITY
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(place_of(scene, "17") == "0-3");

  // Each CPU's own.
  move_thread(scene, "17", "2");
  Journal again = scene.laptop.journal();
  const int count = scene.kernel.count();
  apply(move_kernel_threads({2, 3}), scene.kernel, scene.context(), again);
  CHECK(scene.kernel.count() == count);
  CHECK(undo_all(scene.kernel, again).code == ExitCode::ended);
}

TEST_CASE("kernel threads: one whose number came again is not touched", "[steps]") {
  Scene scene;
  Journal journal = scene.laptop.journal();
  apply(move_kernel_threads({2, 3}), scene.kernel, scene.context(), journal);
  std::string stat = scene.read("/proc/17/stat");
  stat.replace(stat.find(" 33 "), 4, " 44 ");
  scene.write("/proc/17/stat", stat);
  const int count = scene.kernel.count();
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.kernel.count() == count);
  CHECK(place_of(scene, "17") == "0-1");
}

TEST_CASE("kernel threads: what the kernel has widened at a partition's end is nobody's change",
          "[steps]") {
  Scene scene;
  move_thread(scene, "17", "0-2");  // while another VM has 3 isolated
  Journal journal = scene.laptop.journal();
  apply(move_kernel_threads({2}), scene.kernel, scene.context(), journal);
  CHECK(place_of(scene, "17") == "0-1");
  move_thread(scene, "17", "0-3");
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(place_of(scene, "17") == "0-3");
}

TEST_CASE("isolation: a partition that the kernel calls invalid is refused, with its word",
          "[steps]") {
  class Unwilling : public FakeKernel {
   public:
    using FakeKernel::FakeKernel;
    void write(const std::string& path, const std::string& value) override {
      const bool partition = path.ends_with("/cpuset.cpus.partition") && value == "isolated";
      FakeKernel::write(
          path, partition ? "isolated invalid (Cpu list in cpuset.cpus not exclusive)" : value);
    }
  };
  Laptop laptop;
  Unwilling kernel(laptop.tree);
  const auto before = vmlaunch::tests::snapshot(laptop.tree);
  Journal journal = laptop.journal();
  apply(make_cgroup("vm"), kernel, context(), journal);
  apply(enable_controllers(), kernel, context(), journal);
  CHECK(kernel.tree().read("/sys/fs/cgroup/cgroup.subtree_control") == "cpu cpuset memory");
  const std::string refused = vmlaunch::tests::refusal([&] {
    apply(isolate_cpus("vm", {2, 3}), kernel, context(), journal);
  });
  CHECK(refused ==
        "10: Cannot isolate the CPUs 2-3: the kernel says that the partition is isolated invalid "
        "(Cpu list in cpuset.cpus not exclusive); type: cat /sys/fs/cgroup/cpuset.cpus.isolated");
  CHECK(undo_all(kernel, journal).code == ExitCode::ended);
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)) == "");
}

TEST_CASE("isolation: CPUs that one VM has taken no other gets", "[isolation]") {
  CHECK(take_cpus({2, 3})->reserves() == std::vector<std::string>{"cpu 2", "cpu 3"});
}

TEST_CASE("isolation: two VMs' CPUs are exclusive above both, and each takes back its own",
          "[steps]") {
  for (const bool a_first : {true, false}) {
    INFO(a_first);
    Laptop laptop;
    // As in a container.
    const std::string above = "/sys/fs/cgroup/container";
    laptop.tree.write("/proc/self/mountinfo",
                      "31 23 0:28 / " + above + " rw,relatime - cgroup2 cgroup2 rw\n");
    laptop.tree.write(above + "/cgroup.procs", "");
    FakeKernel kernel(laptop.tree);
    laptop.tree.write(above + "/cpuset.cpus.exclusive", "1\n");
    Journal a = laptop.journal("a");
    Journal b = laptop.journal("b");
    const auto isolate = [&](const std::string& vm, unsigned cpu, Journal& journal) {
      apply(make_cgroup(vm), kernel, context(), journal);
      apply(isolate_cpus(vm, {cpu}), kernel, context(), journal);
    };
    isolate("a", 2, a);
    isolate("b", 3, b);
    const auto exclusive = [&] { return kernel.tree().read(above + "/cpuset.cpus.exclusive"); };
    CHECK(exclusive() == "1-3");
    CHECK(undo_all(kernel, a_first ? a : b).code == ExitCode::ended);
    CHECK(exclusive() == (a_first ? "1,3" : "1-2"));
    CHECK(undo_all(kernel, a_first ? b : a).code == ExitCode::ended);
    CHECK(exclusive() == "1");
  }
}

TEST_CASE("controllers: those that others use by now stay on, and are named", "[steps]") {
  class Busy : public FakeKernel {
   public:
    using FakeKernel::FakeKernel;
    void write(const std::string& path, const std::string& value) override {
      if (value.starts_with("-cpu")) {
        throw std::system_error(EBUSY, std::generic_category(), "write " + path);
      }
      FakeKernel::write(path, value);
    }
  };
  Laptop laptop;
  Journal journal = laptop.journal();
  SECTION("by a cgroup that gives them on") {
    Busy kernel(laptop.tree);
    apply(enable_controllers(), kernel, context(), journal);
    const Undone undone = undo_all(kernel, journal);
    CHECK(undone.code == ExitCode::host_not_restored);
    CHECK(undone.leftovers ==
          std::vector<std::string>{
              "changed by somebody else meanwhile, and left: the controllers cpu cpuset of "
              "/sys/fs/cgroup: a cgroup below gives them on to others; to see which, type: grep . "
              "/sys/fs/cgroup/*/cgroup.subtree_control"});
    CHECK_FALSE(undone.again);
  }
  SECTION("by a cgroup that came since") {
    FakeKernel kernel(laptop.tree);
    apply(enable_controllers(), kernel, context(), journal);
    laptop.tree.write("/sys/fs/cgroup/vmlaunch-other/cgroup.procs", "");
    laptop.tree.write("/sys/fs/cgroup/new/cgroup.procs", "");
    const Undone undone = undo_all(kernel, journal);
    CHECK(undone.leftovers ==
          std::vector<std::string>{
              "changed by somebody else meanwhile, and left: the controllers cpu cpuset of "
              "/sys/fs/cgroup: the cgroup new came since, and may use them; once it is gone, type: "
              "echo '-cpu -cpuset' > /sys/fs/cgroup/cgroup.subtree_control"});
    CHECK(kernel.tree().read("/sys/fs/cgroup/cgroup.subtree_control") == "cpu cpuset memory");
  }
}

TEST_CASE("controllers: a unit's are one VM's, the root's are everybody's", "[steps]") {
  CHECK(enable_controllers()->shared());
  CHECK_FALSE(enable_controllers_of_unit(100)->shared());
  CHECK(enable_controllers()->object() != enable_controllers_of_unit(100)->object());
}

TEST_CASE("isolation: a VM has a cgroup, a weight and CPUs of its own name alone", "[steps]") {
  for (const Step& step : {weigh_cgroup("vm", 100), isolate_cpus("vm", {2})}) {
    CHECK(step->fits_plan_of("vm"));
    CHECK_FALSE(step->fits_plan_of("other"));
  }
  for (const Json& wrong : {Json{{"kind", "weigh-cgroup"}, {"vm", "vm"}, {"weight", 0}},
                            Json{{"kind", "weigh-cgroup"}, {"vm", "vm"}, {"weight", 10001}},
                            Json{{"kind", "weigh-cgroup"}, {"vm", "a/b"}, {"weight", 100}},
                            Json{{"kind", "isolate-cpus"}, {"vm", "../x"}, {"cpus", "2"}},
                            Json{{"kind", "isolate-cpus"}, {"vm", "vm"}, {"cpus", ""}},
                            Json{{"kind", "take-cpus"}, {"cpus", ""}},
                            Json{{"kind", "enable-controllers"}, {"in_unit", true}, {"weight", 0}},
                            Json{{"kind", "move-interrupts"}, {"cpus", "a"}}}) {
    INFO(wrong);
    CHECK_THROWS_AS(read_step(wrong), FormError);
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
