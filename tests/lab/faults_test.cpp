// Cases that must be found to fail: tests/lab/finds_faults runs them.

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "tests/lab/machine.hpp"
#include "tests/support/catch.hpp"

using namespace vmlaunch::tests;

TEST_CASE("fault: a check does not hold", "[.fault]") {
  CHECK(std::getenv("PATH") == nullptr);
}

TEST_CASE("fault: the host is left changed", "[.fault]") {
  std::ofstream("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages") << 8;
  CHECK(std::system("sleep 1000 &") == 0);
}

TEST_CASE("fault: it never ends", "[.fault]") {
  CHECK(std::system("setsid sleep 1001 & sleep 1002") == 0);
}

TEST_CASE("fault: it sleeps in the kernel", "[.fault]") {
  // The port passes nothing on, so the reset waits for the device for more than a minute.
  CHECK(
      std::system(("setpci -s " + device::second_nvme_port + " SECONDARY_BUS=fe SUBORDINATE_BUS=fe")
                      .c_str()) == 0);
  std::ofstream("/sys/bus/pci/devices/" + device::second_nvme + "/reset") << 1;
}

TEST_CASE("fault: it is killed", "[.fault]") {
  std::abort();
}

TEST_CASE("fault: the kernel panics", "[.fault]") {
  CHECK(::access("/proc/sysrq-trigger", W_OK) == 0);
  std::ofstream("/proc/sysrq-trigger") << 'c';
  ::pause();
}

TEST_CASE("fault: none, after a panic", "[.fault]") {
  SUCCEED();
}

TEST_CASE("fault: the emulator stands still, once", "[.fault]") {
  const std::string mark = "/run/lab/stood-still";
  if (::access(mark.c_str(), F_OK) != 0) {
    std::ofstream(mark) << "yes\n";
    OuterMachine().execute("stop");
  }
  SUCCEED();
}
