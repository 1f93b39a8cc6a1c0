#include "launcher/plan/desktop.hpp"

#include <sys/xattr.h>

#include <string>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/survey/cgroup.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"
#include "tests/unit/laptop.hpp"

namespace vmlaunch::launcher {
namespace {

using steps::tests::kGpu;
using steps::tests::kSound;
using steps::tests::Laptop;
using tests::FakeKernel;
using tests::PciTree;

const Identity kRoot{true, {"uid 1880000042", {1880000042, 1880000042, {}}}, false};
const Identity kSudo{true, {"anna", {1000, 1000, {}}}, true};
const Identity kPlain{false, {"anna", {1000, 1000, {}}}, true};

config::VmSpec spec_of(const std::string& keys) {
  const std::string path = "/vms/win10.json";
  return config::load(config::Document(path, "{" + keys + "}"), path);
}

const std::string kSingle = R"("single_gpu": true, "pci": [{"device": "01:00.0"}])";

survey::Survey survey_of(const Laptop& laptop, const std::string& cgroup) {
  survey::Survey survey;
  survey.cgroup = true;
  survey.pci = survey::look_at_pci(laptop.tree.tree());
  survey.screen = survey::look_at_screen(laptop.tree.tree(), survey.pci);
  survey.session = survey::look_at_session(laptop.tree.tree());
  survey.session.systemd = true;
  survey.session.cgroup = cgroup;
  survey.session.program = "/usr/bin/vmlaunch";
  return survey;
}

plan::Plan plan_of(const std::string& keys,
                   const survey::Survey& survey,
                   const Identity& identity = kRoot) {
  return plan::make_plan(spec_of(keys), survey, identity, Authority::user);
}

std::string refusal(const std::string& keys,
                    const survey::Survey& survey,
                    const Identity& identity = kRoot) {
  return tests::refusal([&] { static_cast<void>(plan_of(keys, survey, identity)); });
}

std::vector<std::string> lines_of(const plan::Plan& plan) {
  std::vector<std::string> lines;
  for (const steps::Step& step : plan.steps) {
    lines.push_back(step->describe());
  }
  return lines;
}

bool has(const std::vector<std::string>& lines, const std::string& line) {
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

constexpr const char* kConsoleLine = "take the host's console off the screen (vtconsole/*/bind 0)";

TEST_CASE("desktop: a run that would end with the desktop is refused with the command", "[plan]") {
  const Laptop laptop;
  const std::string command =
      "; type: sudo systemd-run --unit=vmlaunch-win10 --collect --property=TimeoutStopSec=10min "
      "/usr/bin/vmlaunch run /vms/win10.json";
  const std::string cannot = "10: Cannot take the host's only GPU from within this run: ";
  const std::string user = "/user.slice/user-1000.slice/";
  for (const auto& [cgroup, why] : {
           std::pair(user + "session-2.scope",
                     "it was started in a login session (session-2.scope), which ends with the "
                     "desktop"),
           std::pair(user + "user@1000.service/app.slice/vte-spawn-1.scope",
                     "it was started by a desktop's program (vte-spawn-1.scope), which ends with "
                     "the desktop"),
           std::pair(user + "user@1000.service/app.slice/app-org.kde.konsole@1.service",
                     "it was started by a desktop's program (app-org.kde.konsole@1.service), which "
                     "ends with the desktop"),
           std::pair(user + "user@1000.service/app.slice/vm.service",
                     "it is a unit (vm.service) of user@1000.service, which ends with that user's "
                     "last session unless one types: loginctl enable-linger 1000"),
       }) {
    CHECK(refusal(kSingle, survey_of(laptop, cgroup)) == cannot + why + command);
    CHECK(refusal(kSingle, survey_of(laptop, cgroup), kSudo)
              .ends_with("/usr/bin/vmlaunch --as 1000 run /vms/win10.json"));
    // Without single_gpu it is nobody's business.
    CHECK_NOTHROW(plan_of(R"("pci": [{"device": "01:00.0"}])", survey_of(laptop, cgroup)));
  }
}

TEST_CASE("desktop: a run outside of the desktop may end it", "[plan]") {
  const Laptop laptop;
  for (const char* cgroup : {"/system.slice/vm.service",
                             "/system.slice/run-1.scope",
                             "/init.scope",
                             "",
                             "/vm.service"}) {
    INFO(cgroup);
    CHECK(
        has(lines_of(plan_of(kSingle, survey_of(laptop, cgroup))), "stop gdm.service if it runs"));
  }
  survey::Survey lingering =
      survey_of(laptop, "/user.slice/user-1000.slice/user@1000.service/vm.service");
  lingering.session.lingers = true;
  CHECK_NOTHROW(plan_of(kSingle, lingering));
  survey::Survey within = survey_of(laptop, "/system.slice/gdm.service");
  CHECK(refusal(kSingle, within)
            .starts_with("10: Cannot stop gdm.service: this run is a part of it; type: sudo "));
}

TEST_CASE("desktop: without systemd the user is told what to see to, and units are refused",
          "[plan]") {
  const Laptop laptop;
  survey::Survey survey = survey_of(laptop, "/user.slice/user-1000.slice/session-2.scope");
  survey.session.systemd = false;
  survey.session.display_manager.reset();
  const plan::Plan plan = plan_of(kSingle, survey);
  CHECK(plan.warnings.back().starts_with("single_gpu: without systemd nobody stops the desktop"));
  CHECK(refusal(R"("stop_units": ["a.service"])", survey) ==
        "10: Cannot stop units, which the config's stop_units asks for: this host does not run "
        "systemd; take stop_units out of the config");
}

TEST_CASE("desktop: units are stopped for root alone", "[plan]") {
  const Laptop laptop;
  const survey::Survey survey = survey_of(laptop, "/system.slice/vm.service");
  const std::string units = R"("stop_units": ["a.service", "gdm.service"])";
  CHECK(refusal(units, survey, kPlain) ==
        "10: Cannot stop units, which the config's stop_units asks for, without root; type: sudo "
        "vmlaunch …");
  CHECK(lines_of(plan_of(units, survey)) ==
        std::vector<std::string>{"make the cgroup vmlaunch-win10",
                                 "stop a.service if it runs",
                                 "stop gdm.service if it runs"});
}

TEST_CASE("desktop: the console is taken off the card that it is on, and off no other", "[plan]") {
  Laptop laptop;
  laptop.tree.write(laptop.tree.device("0000:00:02.0") + "/boot_vga", "0\n");
  const std::string gpu = R"("pci": [{"device": "01:00.0"}])";
  const std::string nic = R"("pci": [{"device": "02:00.0"}])";
  const auto lines = [&](const std::string& keys) {
    return lines_of(plan_of(keys, survey_of(laptop, "")));
  };
  CHECK(has(lines(gpu), kConsoleLine));
  CHECK_FALSE(has(lines(nic), kConsoleLine));
  // Another card has the first framebuffer.
  laptop.tree.link("/sys/class/graphics/fb3/device", laptop.tree.device("0000:01:00.0"));
  laptop.tree.remove("/sys/class/graphics/fb0");
  laptop.tree.link("/sys/class/graphics/fb2/device", laptop.tree.device("0000:00:02.0"));
  CHECK_FALSE(has(lines(gpu), kConsoleLine));
  laptop.tree.write(laptop.tree.device("0000:01:00.0") + "/boot_vga", "1\n");
  CHECK(has(lines(gpu), kConsoleLine));
}

TEST_CASE("desktop: a unit that did not run stays as it is", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  laptop.tree.write("/units/gdm.service", "inactive\n");
  steps::Journal journal = laptop.journal();
  steps::apply(steps::stop_unit("gdm.service", {}), kernel, steps::tests::context(), journal);
  CHECK(steps::undo_all(kernel, journal).code == ExitCode::ended);
  CHECK(kernel.count() == 0);
}

TEST_CASE("desktop: a unit is started again only when its devices have their drivers", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  {
    steps::Journal journal = laptop.journal();
    steps::apply(steps::stop_unit("gdm.service", {{kGpu, "nouveau"}}),
                 kernel,
                 steps::tests::context(),
                 journal);
    laptop.tree.bind("0000:01:00.0", "vfio-pci");
    const steps::Undone undone = steps::undo_all(kernel, journal);
    CHECK(undone.code == ExitCode::host_not_restored);
    CHECK(undone.again);
    CHECK(undone.leftovers ==
          std::vector<std::string>{
              "stop gdm.service if it runs: it is not started, since 0000:01:00.0 has vfio-pci and "
              "not nouveau; once that is put right, type: systemctl start gdm.service"});
    CHECK(kernel.unit("gdm.service").active_state == "inactive");
  }
  laptop.tree.bind("0000:01:00.0", "nouveau");
  const auto later = steps::recover_vm(kernel, laptop.folders(), "vm");
  REQUIRE(later);
  CHECK(later->code == ExitCode::ended);
  CHECK(kernel.unit("gdm.service").active_state == "active");
}

TEST_CASE("desktop: a unit that systemd does not know is refused before anything is done",
          "[steps]") {
  Laptop laptop;
  const FakeKernel kernel(laptop.tree);
  const steps::Step step = steps::stop_unit("other.service", {});
  CHECK(tests::refusal([&] { step->check(kernel); }) ==
        "10: Cannot stop other.service: systemd has no such unit; type: systemctl status "
        "other.service");
}

TEST_CASE("desktop: a framebuffer of another card is left alone", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  for (const char* iomem : {"d0000000-d02fffff : BOOTFB\n",   // beside the card
                            "cff00000-d00fffff : BOOTFB\n",   // beyond its end
                            "c0000000-c02fffff : PCI Bus\n",  // nobody's framebuffer
                            "00000000-00000000 : BOOTFB\n",
                            ""}) {  // without the right to see it
    INFO(iomem);
    laptop.tree.write("/proc/iomem", iomem);
    steps::Journal journal = laptop.journal();
    steps::apply(steps::release_framebuffer("simple-framebuffer.0", kGpu),
                 kernel,
                 steps::tests::context(),
                 journal);
    CHECK(steps::undo_all(kernel, journal).code == ExitCode::ended);
  }
  CHECK(kernel.count() == 0);
}

TEST_CASE("desktop: a framebuffer that the kernel does not take back is named, once", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  steps::Journal journal = laptop.journal();
  const steps::Step step = steps::release_framebuffer("simple-framebuffer.0", kGpu);
  steps::apply(step, kernel, steps::tests::context(), journal);
  REQUIRE(kernel.count() == 1);
  kernel.fail_at(1, FakeKernel::Fault::fails);
  const steps::Undone undone = steps::undo_all(kernel, journal);
  CHECK(undone.code == ExitCode::host_not_restored);
  CHECK_FALSE(undone.again);
  REQUIRE(undone.leftovers.size() == 1);
  CHECK(undone.leftovers[0].starts_with(
      "release the firmware's framebuffer simple-framebuffer.0 if it lies in 0000:01:00.0: the "
      "kernel does not take it back before the next boot: "));
  CHECK(laptop.state.names().empty());
}

TEST_CASE("desktop: a console that came back with its driver is not written", "[steps]") {
  Laptop laptop;
  FakeKernel kernel(laptop.tree);
  steps::Journal journal = laptop.journal();
  steps::apply(steps::release_console(), kernel, steps::tests::context(), journal);
  CHECK(laptop.tree.tree().read("/sys/class/vtconsole/vtcon1/bind") == "0");
  CHECK(kernel.count() == 1);
  laptop.tree.write("/sys/class/vtconsole/vtcon1/bind", "1\n");
  CHECK(steps::undo_all(kernel, journal).code == ExitCode::ended);
  CHECK(kernel.count() == 1);
}

TEST_CASE("desktop: a display manager is found behind its alias, unless it is masked", "[survey]") {
  const Laptop laptop;
  const auto found = [&] {
    return survey::look_at_session(laptop.tree.tree()).display_manager.value_or("none");
  };
  CHECK(found() == "gdm.service");
  laptop.tree.link("/etc/systemd/system/display-manager.service", "/dev/null");
  CHECK(found() == "none");
  laptop.tree.remove("/etc/systemd/system/display-manager.service");
  CHECK(found() == "none");
  laptop.tree.write("/usr/lib/systemd/system/display-manager.service", "[Service]\n");
  CHECK(found() == "display-manager.service");
}

TEST_CASE("cgroup: where systemd keeps the tree, root has only what is delegated", "[survey]") {
  Laptop laptop;
  const auto parent = [&] {
    return survey::find_cgroup_parent(laptop.tree.tree(), true).value_or("none");
  };
  CHECK(parent() == "/sys/fs/cgroup");
  laptop.tree.folder("/run/systemd/system");
  CHECK(parent() == "none");
  const std::string unit = "/system.slice/vmlaunch-guardian-1.service";
  laptop.tree.write("/proc/self/cgroup", "0::" + unit + "\n");
  laptop.tree.write("/sys/fs/cgroup" + unit + "/cgroup.procs", "");
  CHECK(parent() == "none");
  const std::string folder = laptop.tree.path_of("/sys/fs/cgroup" + unit);
  const bool marks = ::setxattr(folder.c_str(), "user.delegate", "1", 1, 0) == 0;
  if (tests::skipped_without("a file system with user's attributes", marks)) {
    return;
  }
  CHECK(parent() == "/sys/fs/cgroup" + unit);
  REQUIRE(::setxattr(folder.c_str(), "user.delegate", "0", 1, 0) == 0);
  CHECK(parent() == "none");
}

TEST_CASE("cgroup: systemd's own tree says where a process is", "[survey]") {
  const Laptop laptop;
  for (const auto& [lines, path] :
       {std::pair("0::/\n", ""),
        std::pair("0::/user.slice/a:b.scope\n", "/user.slice/a:b.scope"),
        std::pair("3:cpu,cpuacct:/x\n1:name=systemd:/system.slice/a.service\n0::/\n",
                  "/system.slice/a.service"),
        std::pair("", "")}) {
    laptop.tree.write("/proc/self/cgroup", lines);
    CHECK(survey::own_cgroup(laptop.tree.tree()) == path);
  }
}

}  // namespace
}  // namespace vmlaunch::launcher
