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

TEST_CASE("masks: CPUs are taken out of each, and an interrupt with none goes elsewhere",
          "[steps]") {
  Scene scene;
  Journal journal = scene.laptop.journal();
  apply(clear_masks({2, 3}), scene.kernel, scene.context(), journal);
  CHECK(scene.read(kDisk) == "0-1");
  CHECK(scene.read(kNic) == "0-1");  // it was on 2 alone
  CHECK(scene.read(kUnused) == "0-3");
  CHECK(scene.read("/proc/irq/default_smp_affinity") == "3");
  CHECK(scene.read("/sys/devices/virtual/workqueue/cpumask") == "3");
  CHECK(scene.read("/proc/sys/kernel/watchdog_cpumask") == "0-1");
  CHECK(scene.told.empty());
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.read(kDisk) == "0-3");
  CHECK(scene.read(kNic) == "2");
  CHECK(scene.read("/proc/irq/default_smp_affinity") == "f");
}

TEST_CASE("masks: what the kernel does not take is told, and the rest is done", "[steps]") {
  Scene scene;
  REQUIRE(::chmod(scene.laptop.tree.path_of(kNic).c_str(), 0444) == 0);
  Journal journal = scene.laptop.journal();
  apply(clear_masks({2}), scene.kernel, scene.context(), journal);
  REQUIRE(scene.told.size() == 1);
  CHECK(scene.told[0].starts_with("the interrupts 26 stay on the guest's CPUs"));
  CHECK(scene.read(kDisk) == "0-1,3");
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.read(kDisk) == "0-3");
  CHECK(scene.read(kNic) == "2");
}

TEST_CASE("masks: two VMs give back each its own CPUs, in whatever order they end", "[steps]") {
  for (const bool a_first : {true, false}) {
    INFO(a_first);
    Scene scene;
    Journal a = scene.laptop.journal("a");
    Journal b = scene.laptop.journal("b");
    apply(clear_masks({2}), scene.kernel, scene.context(), a);
    apply(clear_masks({3}), scene.kernel, scene.context(), b);
    CHECK(scene.read(kDisk) == "0-1");
    CHECK(undo_all(scene.kernel, a_first ? a : b).code == ExitCode::ended);
    CHECK(scene.read(kDisk) == (a_first ? "0-2" : "0-1,3"));
    CHECK(undo_all(scene.kernel, a_first ? b : a).code == ExitCode::ended);
    CHECK(scene.read(kDisk) == "0-3");
    CHECK(scene.read("/proc/irq/default_smp_affinity") == "f");
  }
}

TEST_CASE("masks: what somebody else moved meanwhile stays moved", "[steps]") {
  Scene scene;
  Journal journal = scene.laptop.journal();
  apply(clear_masks({2}), scene.kernel, scene.context(), journal);
  scene.write(kDisk, "1");
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.read(kDisk) == "1-2");
}

TEST_CASE("masks: a record names masks of the kernel's alone", "[steps]") {
  Scene scene;
  const auto undo_with = [&](const std::string& path) {
    const Json record = {{"masks", {{{"path", path}, {"before", "0-3"}, {"after", "0-1"}}}}};
    clear_masks({2})->undo(scene.kernel, record);
  };
  for (const char* path : {"/etc/passwd",
                           "/proc/irq/../../etc/passwd",
                           "/proc/irq/24/../smp_affinity_list",
                           "/proc/irq/x/smp_affinity_list",
                           "/proc/sys/kernel/core_pattern"}) {
    INFO(path);
    CHECK_THROWS_AS(undo_with(path), FormError);
  }
  CHECK_NOTHROW(undo_with(kDisk));
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

TEST_CASE("kernel threads: those that may be anywhere move, those of one CPU or bound do not",
          "[steps]") {
  Scene scene;
  Journal journal = scene.laptop.journal();
  apply(move_kernel_threads({2, 3}), scene.kernel, scene.context(), journal);
  CHECK(scene.read("/affinity/17") == "0-1");
  CHECK(scene.read("/affinity/18") == "0-3");  // PF_NO_SETAFFINITY
  CHECK(undo_all(scene.kernel, journal).code == ExitCode::ended);
  CHECK(scene.read("/affinity/17") == "0-3");

  // Each CPU's own, and one that has ended meanwhile, whose number came again.
  scene.write("/affinity/17", "2");
  Journal again = scene.laptop.journal();
  const int count = scene.kernel.count();
  apply(move_kernel_threads({2, 3}), scene.kernel, scene.context(), again);
  CHECK(scene.kernel.count() == count);
  CHECK(undo_all(scene.kernel, again).code == ExitCode::ended);
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
  apply(enable_controllers(false), kernel, context(), journal);
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

TEST_CASE("isolation: CPUs that one VM has isolated no other gets", "[steps]") {
  for (const Step& step : {isolate_cpus("vm", {2, 3}), clear_masks({2, 3})}) {
    CHECK(step->reserves() == std::vector<std::string>{"cpu 2", "cpu 3"});
  }
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
                            Json{{"kind", "clear-masks"}, {"cpus", "a"}}}) {
    INFO(wrong);
    CHECK_THROWS_AS(read_step(wrong), FormError);
  }
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
