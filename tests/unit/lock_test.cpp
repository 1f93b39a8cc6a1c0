#include "launcher/steps/lock.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include "launcher/steps/reservations.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher::steps {
namespace {

using namespace tests;

TEST_CASE("steps: what another VM has by now is not put back from under it", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all({override_driver(kGpu, "nouveau", "vfio-pci")}, kernel, journal));
  }
  const auto changed = vmlaunch::tests::snapshot(laptop.tree);
  {
    const AnotherProcess other(
        [&] { return Lock::take(laptop.state.path(), "0000:01:00.0", kRun, "win10"); });
    const auto undone = recover_vm(kernel, laptop.folders(), "vm");
    REQUIRE(undone);
    CHECK(undone->code == ExitCode::held);
    CHECK(undone->again);
    REQUIRE(undone->leftovers.size() == 1);
    CHECK(undone->leftovers[0] ==
          "Cannot take 0000:01:00.0: the VM win10 has it (its guardian is pid " +
              std::to_string(other.pid()) + "); stop that first");
    CHECK(vmlaunch::tests::difference(changed, vmlaunch::tests::snapshot(laptop.tree)) == "");
  }
  CHECK(recover_vm(kernel, laptop.folders(), "vm").value().code == ExitCode::ended);
  CHECK(laptop.state.names().empty());
}

TEST_CASE("steps: what was put back already may be another VM's by now", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    Journal journal = laptop.journal();
    REQUIRE(apply_all({override_driver(kGpu, "nouveau", "vfio-pci"),
                       override_driver(kSound, "snd_hda_intel", "vfio-pci")},
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

TEST_CASE("lock: a turn is waited for, with who has it, and comes when its holder is killed",
          "[steps]") {
  const Folder folder;
  auto other = std::make_optional<AnotherProcess>(
      [&] { return Lock::take(folder.path(), "huge pages", kRun, "win10"); });
  std::vector<std::string> told;
  const Lock turn = Lock::wait_for(folder.path(), "huge pages", "vm", [&](const std::string& text) {
    told.push_back(text);
    other.reset();
  });
  REQUIRE(told.size() == 1);
  CHECK(told[0].starts_with("waiting for huge pages: the VM win10 has it (its guardian is pid "));
  CHECK(text_of(folder.file("huge pages.lock")) == "vm");
}

TEST_CASE("lock: whoever waits for a turn can be told to give up", "[steps]") {
  const Folder folder;
  const AnotherProcess other([&] { return Lock::take(folder.path(), "huge pages", kRun, "a"); });
  CHECK_THROWS_AS(Lock::wait_for(folder.path(),
                                 "huge pages",
                                 "vm",
                                 [](const std::string&) {
                                   throw Failure(ExitCode::ended, "the user has enough");
                                 }),
                  Failure);
}

TEST_CASE("reservations: of two runs that want the same in opposite order, at most one is refused",
          "[steps]") {
  const std::vector<Step> forth = {keep_awake(kGpu), keep_awake(kSound)};
  const std::vector<Step> back = {keep_awake(kSound), keep_awake(kGpu)};
  for (int round = 0; round < 20; ++round) {
    const Folder folder;
    base::Pipe verdicts = base::make_pipe();
    base::Pipe end = base::make_pipe();
    std::vector<base::Child> runs;
    for (const auto* steps : {&forth, &back}) {
      runs.push_back(base::fork_child("a run"));
      if (runs.back().pid == 0) {
        end.write_end.reset();
        Reservations reservations(kRun, "vm");
        std::string verdict = "y";
        try {
          reservations.take_all(folder.path(), *steps);
        } catch (const Failure&) {
          verdict = "n";
        }
        base::write_all(verdicts.write_end.get(), verdict, "the pipe");
        char byte = 0;
        static_cast<void>(!::read(end.read_end.get(), &byte, 1));
        ::_exit(0);
      }
    }
    std::string said(2, ' ');
    for (char& verdict : said) {
      REQUIRE(base::wait_readable(verdicts.read_end.get(),
                                  std::chrono::steady_clock::now() + std::chrono::seconds(20)));
      REQUIRE(::read(verdicts.read_end.get(), &verdict, 1) == 1);
    }
    end.write_end.reset();
    for (const base::Child& run : runs) {
      CHECK(base::reap_within(run.pidfd.get(), std::chrono::seconds(10)) == base::ExitStatus{});
    }
    CHECK((said == "yn" || said == "ny"));
  }
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

TEST_CASE("lock: the devices that running VMs have are told, not those of the dead", "[steps]") {
  const Folder folder;
  const auto take = [&](const char* name, Lock::Purpose purpose) {
    return [&folder, name, purpose] { return Lock::take(folder.path(), name, purpose, "win10"); };
  };
  folder.write("0000:00:1f.3.lock", "", 0600);
  const AnotherProcess vm(take("vm", kRun));
  const AnotherProcess gpu(take("0000:01:00.0", kRun));
  const AnotherProcess recovered(take("0000:02:00.0", Lock::Purpose::recovery));
  CHECK(reserved_devices(folder.path()) ==
        std::map<base::PciAddress, std::string>{
            {kGpu, "the VM win10 has it (its guardian is pid " + std::to_string(gpu.pid()) + ")"}});
  CHECK(reserved_devices(folder.file("none")).empty());
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
