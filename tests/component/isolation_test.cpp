// Who has CPUs, as the verb tells it.

#include <csignal>
#include <string>

#include "base/affinity.hpp"
#include "tests/component/vm.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch;
using namespace vmlaunch::tests;

namespace {

std::string first_cpu() {
  return std::to_string(*base::affinity_of(0).begin());
}

bool said(const Program& program, const std::string& text) {
  return program.output().find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("isolation: before a start a thread of our own finds what a CPU is like") {
  Program program(command_of({"isolation", "--seconds", "1", first_cpu()}));
  const int code = program.exit_code();
  INFO(program.output());
  CHECK(code == 0);
  CHECK(said(program, "CPU " + first_cpu() + ", for 1."));
  CHECK(said(program, "gaps in a loop that looks at the clock: the longest "));
  CHECK(said(program, "from a timer's end to the thread that waits for it: the longest "));
  CHECK(said(program, "#"));
}

TEST_CASE("isolation: of a guest that runs each vCPU is told, and no probe is beside it") {
  const Folder folder;
  Json config = idle_config();
  config["cpu"] = {{"pin", first_cpu()}};
  Program vm(run_of(folder, config));
  const bool running = vm.says("] running");
  INFO(vm.output());
  REQUIRE(running);
  const std::string name = config["name"];
  Program program(command_of({"isolation", "--seconds", "1", "--json", name}));
  const int code = program.exit_code();
  INFO(program.output());
  REQUIRE(code == 0);
  const Json report = Json::parse(program.output());
  REQUIRE(report.at("cpus").size() == 1);
  const Json& cpu = report.at("cpus").at(0);
  CHECK(cpu.at("cpu") == std::stoi(first_cpu()));
  REQUIRE(cpu.at("guests").size() == 1);
  CHECK(cpu.at("guests").at(0).at("name") == "CPU 0/TCG");
  CHECK(cpu.at("guests").at(0).at("process") == qemu_pid(vm));
  CHECK(cpu.at("guests").at(0).at("ran_ns").get<std::uint64_t>() > 0);
  CHECK(cpu.at("gaps").is_null());
  vm.signal(SIGINT);
  CHECK(vm.exit_code() == 18);
}

TEST_CASE("isolation: what is neither a VM that runs nor CPUs that are there is refused") {
  Program nobody(command_of({"isolation", "no-such-vm"}));
  CHECK(nobody.exit_code() == 3);
  CHECK(said(nobody, "Cannot look at no-such-vm: it is neither a list of CPUs"));
  Program cpus(command_of({"isolation", "8000-8001"}));
  CHECK(cpus.exit_code() == 2);
  CHECK(said(cpus, "Cannot look at the CPUs 8000-8001: they are not there or offline"));
  Program never(command_of({"isolation", "--seconds", "0", first_cpu()}));
  CHECK(never.exit_code() == 2);
}
