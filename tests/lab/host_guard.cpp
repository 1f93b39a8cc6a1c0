#include <unistd.h>

#include <iostream>

#include "tests/lab/host_snapshot.hpp"
#include "tests/lab/machine.hpp"
#include "tests/support/program.hpp"

#if __has_include(<catch2/reporters/catch_reporter_event_listener.hpp>)
#include <catch2/catch_test_case_info.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/reporters/catch_reporter_event_listener.hpp>
#include <catch2/reporters/catch_reporter_registrars.hpp>
using Listener = Catch::EventListenerBase;
#else
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
using Listener = Catch::TestEventListenerBase;
#endif

namespace {

using namespace vmlaunch::tests;

/// Fails each case that does not leave the host as it found it.
class HostGuard : public Listener {
 public:
  using Listener::Listener;

  void testRunStarting(const Catch::TestRunInfo& /*info*/) override {
    if (machine_name().empty()) {
      std::cerr << "lab_cases: changes its host, and runs in a machine of the lab only: "
                   "tests/lab/boot --cases NAME MACHINE\n";
      ::_exit(2);
    }
  }

  void testCaseStarting(const Catch::TestCaseInfo& info) override {
    name_ = info.name;
    before_ = host_snapshot();
  }

  // The case as a whole is a section too; when its end is told, its objects are gone, and a check
  // still counts.
  void sectionEnded(const Catch::SectionStats& stats) override {
    if (stats.sectionInfo.name != name_) {
      return;
    }
    const std::string changes = lasting_difference(before_, Seconds(2));
    if (!changes.empty()) {
      FAIL_CHECK("The host is not as it was:\n" << changes);
    }
  }

 private:
  std::string name_;
  HostSnapshot before_;
};

CATCH_REGISTER_LISTENER(HostGuard)

}  // namespace
