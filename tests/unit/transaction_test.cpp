#include "launcher/steps/transaction.hpp"

#include "launcher/plan/plan.hpp"
#include "tests/support/golden.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

using Fault = FakeKernel::Fault;

/// Every example, and a config for what none of them needs.
std::vector<std::string> configs() {
  std::vector<std::string> texts = {R"({"pci": [{"device": "01:00.0", "rescan": true},
                                                {"device": "01:00.1", "driver": "pci-stub"}]})",
                                    R"({"cpu": {"pin": "2", "halt_polling": false}})"};
  for (const std::string& file : vmlaunch::tests::sources_in("configs", ".json")) {
    if (!file.ends_with(".schema.json")) {
      texts.push_back(vmlaunch::tests::read_source("configs/" + file));
    }
  }
  return texts;
}

/// The steps of every example config on the laptop, as a run by root has them.
std::vector<std::vector<Step>> plans_of_examples(const PciTree& tree) {
  std::vector<std::vector<Step>> all;
  for (const std::string& text : configs()) {
    const std::string path = "/configs/vm.json";
    const config::VmSpec spec = config::load(config::Document(path, text), path);
    survey::Survey survey;
    survey.cgroup = true;
    survey.kvm = {true, true, "", true, false};
    survey.links["br0"] = {true, true, false, false, true};
    survey.links["enp3s0"] = {true, false, false, false, true};
    survey.vhost_net = true;
    survey.pci = survey::look_at_pci(tree.tree());
    survey.screen = survey::look_at_screen(tree.tree(), survey.pci);
    survey.session = survey::look_at_session(tree.tree());
    survey.session.systemd = true;
    const base::Tree read_only = tree.tree();
    survey::Reader reader(read_only);
    survey.nodes = survey::look_at_nodes(reader);
    survey.host_cpus = survey::look_at_cpus(reader);
    survey.cpu_controllers = true;
    survey.partitions = true;
    survey.uefi = survey::Uefi{"/code.fd", "/vars.fd"};
    const Identity root{true, {"uid 1880000042", {1880000042, 1880000042, {}}}, false};
    all.push_back(plan::make_plan(spec, survey, root, Authority::root).steps);
  }
  return all;
}

int changes_of(const std::vector<Step>& steps) {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all(steps, kernel, journal));
  after_start(kernel, journal, [](const std::string&) {});
  return kernel.count();
}

/// All that is done for the graphics card.
std::vector<Step> gpu_steps() {
  return {make_cgroup("vm"),
          keep_awake(kGpu),
          override_driver(kGpu, "nouveau", "vfio-pci"),
          bind_driver(kGpu, "nouveau", "vfio-pci")};
}

TEST_CASE("steps: what every example's steps change is undone from their journal", "[steps]") {
  Laptop any;
  for (const auto& steps : plans_of_examples(any.tree)) {
    INFO(steps.front()->describe() << ", " << steps.size() << " steps");
    Laptop laptop;
    FakeKernel kernel(laptop.tree);
    const auto before = vmlaunch::tests::snapshot(laptop.tree);
    Journal journal = laptop.journal();
    REQUIRE(apply_all(steps, kernel, journal));
    CHECK(vmlaunch::tests::snapshot(laptop.tree) != before);
    const Undone undone = undo_all(kernel, journal);
    CHECK(undone.code == ExitCode::ended);
    CHECK(undone.leftovers.empty());
    CHECK(undone.restored.size() == steps.size());
    CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)).empty());
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
        const auto before = vmlaunch::tests::snapshot(laptop.tree);
        Journal journal = laptop.journal();
        kernel.fail_at(n, fault);
        // A probe may say that it failed and have bound the device: then nothing failed.
        static_cast<void>(start_all(steps, kernel, journal));
        const Undone undone = undo_all(kernel, journal);
        CHECK(undone.leftovers.empty());
        CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)).empty());
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
        const auto before = vmlaunch::tests::snapshot(laptop.tree);
        try {
          Journal journal = laptop.journal();
          kernel.fail_at(n, fault);
          static_cast<void>(start_all(steps, kernel, journal));
          static_cast<void>(undo_all(kernel, journal));
        } catch (const FakeKernel::Killed&) {
        }
        const auto undone = recover_vm(kernel, laptop.folders(), "vm");
        if (undone) {
          CHECK(undone->leftovers.empty());
        }
        CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)).empty());
        CHECK(laptop.state.names().empty());
      }
    }
  }
}

TEST_CASE("steps: an undo that fails is told, the others go on, and the next try succeeds",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  const auto before = vmlaunch::tests::snapshot(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({keep_awake(kGpu),
                     override_driver(kGpu, "nouveau", "vfio-pci"),
                     bind_driver(kGpu, "nouveau", "vfio-pci"),
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
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)) == "");
}

TEST_CASE("steps: a journal that cannot be written does not stop the way back", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  const auto before = vmlaunch::tests::snapshot(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all(gpu_steps(), kernel, journal));
  const FullDisk full(text_of(laptop.state.file("vm")).size());
  const Undone undone = undo_all(kernel, journal);
  CHECK(undone.leftovers.empty());
  CHECK(undone.restored.size() == 4);
  CHECK(vmlaunch::tests::difference(before, vmlaunch::tests::snapshot(laptop.tree)) == "");
  CHECK(laptop.state.names().empty());
}

TEST_CASE("steps: what a start would put back first is told of every VM that does not run",
          "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(
      apply_all({keep_awake(kGpu), override_driver(kGpu, "nouveau", "vfio-pci")}, kernel, journal));
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
  REQUIRE(apply_all(gpu_steps(), kernel, journal));
  const std::string gpu = laptop.tree.device("0000:01:00.0");
  laptop.tree.write(gpu + "/driver_override", "nvidia\n");
  laptop.tree.bind("0000:01:00.0", "nvidia");
  const Undone undone = undo_all(kernel, journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  REQUIRE(undone.leftovers.size() == 2);
  const std::string left = "changed by somebody else meanwhile, and left: ";
  CHECK(undone.leftovers[0] ==
        left +
            "0000:01:00.0 has nvidia, had nouveau; type: echo 0000:01:00.0 > "
            "/sys/bus/pci/devices/0000:01:00.0/driver/unbind && echo 0000:01:00.0 > "
            "/sys/bus/pci/drivers/nouveau/bind");
  CHECK(undone.leftovers[1] == left +
                                   "/sys/bus/pci/devices/0000:01:00.0/driver_override is "
                                   "\"nvidia\", was \"\"; type: echo > "
                                   "/sys/bus/pci/devices/0000:01:00.0/driver_override");
  CHECK_FALSE(undone.again);
  CHECK(kernel.tree().read(gpu + "/d3cold_allowed") == "1");
  CHECK_FALSE(kernel.tree().exists("/sys/fs/cgroup/vmlaunch-vm"));
  CHECK(laptop.state.names().empty());
}

TEST_CASE("steps: a device that went away is named, and the rest is restored", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({override_driver(kGpu, "nouveau", "vfio-pci"),
                     bind_driver(kGpu, "nouveau", "vfio-pci"),
                     override_driver(kSound, "snd_hda_intel", "vfio-pci"),
                     bind_driver(kSound, "snd_hda_intel", "vfio-pci")},
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
                                   override_driver(kGpu, "nouveau", "vfio-pci"),
                                   bind_driver(kGpu, "nouveau", "vfio-pci")};
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

TEST_CASE("steps: while QEMU may live no device is touched", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  Journal journal = laptop.journal();
  REQUIRE(apply_all({make_cgroup("vm"),
                     override_driver(kGpu, "nouveau", "vfio-pci"),
                     bind_driver(kGpu, "nouveau", "vfio-pci")},
                    kernel,
                    journal));
  journal.begin(start_qemu(true),
                {{"cgroup", "/sys/fs/cgroup/vmlaunch-vm"}, {"pid", 0U}, {"start", 0U}});
  laptop.tree.write("/sys/fs/cgroup/vmlaunch-vm/cgroup.events", "populated 1\nfrozen 0\n");
  const auto changed = vmlaunch::tests::snapshot(laptop.tree);
  Host::Deadlines deadlines;
  deadlines.kill = base::Milliseconds(100);
  Host host(laptop.tree.root(), deadlines);
  laptop.tree.write("/sys/fs/cgroup/vmlaunch-vm/cgroup.kill", "");
  const Undone undone = undo_all(host, journal);
  CHECK(undone.code == ExitCode::stuck);
  REQUIRE(undone.leftovers.size() == 1);
  CHECK(undone.leftovers[0].starts_with("start QEMU: Cannot end QEMU: a process in "));
  laptop.tree.remove("/sys/fs/cgroup/vmlaunch-vm/cgroup.kill");
  CHECK(vmlaunch::tests::difference(changed, vmlaunch::tests::snapshot(laptop.tree)).empty());
  CHECK(laptop.state.names() == std::vector<std::string>{"vm"});
}

}  // namespace
}  // namespace vmlaunch::launcher::steps
