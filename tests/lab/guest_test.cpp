#include <unistd.h>

#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/threads.hpp"

using namespace vmlaunch::tests;

namespace {

/// The exit code, within the time that a guest inside a guest takes. Of one that stays silent it is
/// told what its vCPUs are at, a second apart.
int end_of(Program& program) {
  const int code = program.exit_code(Seconds(200));
  const pid_t qemu = static_cast<pid_t>(program.number_after("paused: pid "));
  if (code == -1 && qemu > 0) {
    UNSCOPED_INFO(whereabouts_of(qemu));
    ::sleep(1);
    UNSCOPED_INFO(whereabouts_of(qemu));
  }
  return code;
}

}  // namespace

TEST_CASE("guest: the demo config runs under KVM where there is one, and says so",
          "[intel][intel-6.12][amd][systemd][each]") {
  Program program(command_of({SOURCE_DIR "/configs/demo.json"}));
  const int code = end_of(program);
  INFO(program.output());
  CHECK(code == 0);
  CHECK(program.output().find("VM demo, kvm") != std::string::npos);
  CHECK(program.output().find("vmlaunch demo guest: goodbye") != std::string::npos);
  CHECK(program.output().find("host restored") != std::string::npos);
}

TEST_CASE("guest: plan prints what a run would do", "[intel][none]") {
  Program program(command_of({"plan", SOURCE_DIR "/configs/demo.json"}));
  const int code = program.exit_code();
  INFO(program.output());
  CHECK(code == 0);
  CHECK(program.output().find("accelerator kvm") != std::string::npos);
  CHECK(program.output().find("-accel kvm") != std::string::npos);
}

TEST_CASE("guest: a hidden KVM is Hyper-V to its guest, if it is called so", "[intel]") {
  const Folder folder;
  Json config = guest_config("loglevel=7");
  config["accel"] = "kvm";
  config["cpu"]["hide_hypervisor"] = true;
  config["cpu"]["hyperv"] = {{"vendor_id", "Microsoft Hv"}};
  Program program(run_of(folder, config));
  const int code = end_of(program);
  const std::string& said = program.output();
  INFO(said);
  CHECK(code == 0);
  CHECK(said.find("vmlaunch demo guest: goodbye") != std::string::npos);
  CHECK(said.find("Hypervisor detected: Microsoft Hyper-V") != std::string::npos);
  CHECK(said.find("Hypervisor detected: KVM") == std::string::npos);
}

TEST_CASE("guest: KVM is asked what it offers of Hyper-V's interface", "[intel][intel-6.12]") {
  const Folder folder;
  Json config = guest_config("");
  config["accel"] = "kvm";
  config["cpu"]["hyperv"] = true;
  Program program(command_of({"plan", folder.write("vm.json", config.dump())}));
  CHECK(program.exit_code() == 0);
  INFO(program.output());
  // Which is asked for only where it is known to be there.
  CHECK(program.output().find("hv-stimer,hv-stimer-direct,hv-frequencies") != std::string::npos);
  CHECK(program.output().find("warning: this KVM does not offer") == std::string::npos);
}
