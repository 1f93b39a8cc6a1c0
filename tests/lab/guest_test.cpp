#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

TEST_CASE("guest: the demo config runs under KVM where there is one, and says so",
          "[intel][intel-6.12][amd][systemd][each]") {
  Program program(command_of({SOURCE_DIR "/configs/demo.json"}));
  const int code = program.exit_code(Seconds(200));
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
  const int code = program.exit_code(Seconds(200));
  const std::string& said = program.output();
  INFO(said);
  CHECK(code == 0);
  CHECK(said.find("vmlaunch demo guest: goodbye") != std::string::npos);
  CHECK(said.find("Hypervisor detected: Microsoft Hyper-V") != std::string::npos);
  CHECK(said.find("Hypervisor detected: KVM") == std::string::npos);
}
