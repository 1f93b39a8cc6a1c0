#include "sandbox/privileges.hpp"

#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <string>
#include <system_error>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/skip.hpp"
#include "tests/unit/child.hpp"

namespace vmlaunch::sandbox {
namespace {

using tests::as_user;
using tests::in_child;
using tests::kOther;
using tests::kUser;

const std::string kNone = "0000000000000000";

std::string status(const std::vector<std::string>& lines) {
  return tests::status_lines(base::read_file("/proc/self/status"), lines);
}

std::string capabilities() {
  return status({"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"});
}

/// The text of `capabilities` with these sets.
std::string sets(const std::string& permitted, const std::string& bounding) {
  return "CapInh: " + kNone + "; CapPrm: " + permitted + "; CapEff: " + permitted +
         "; CapBnd: " + bounding + "; CapAmb: " + kNone;
}

/// Gives this process what a service manager may have given it: sets that outlive a new program.
void fill_inheritable_and_ambient() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  base::check(::syscall(SYS_capget, &header, data.data()), "read the capabilities");
  for (__user_cap_data_struct& half : data) {
    half.effective = half.permitted;
    half.inheritable = half.permitted;
  }
  base::check(::syscall(SYS_capset, &header, data.data()), "set the capabilities");
  base::check(::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0), "raise one");
}

/// Which ways to be root again are open.
std::string ways_back() {
  std::string ways;
  ways += ::setuid(0) == 0 ? "setuid " : "";
  ways += ::setresuid(0, 0, 0) == 0 ? "setresuid " : "";
  ways += ::setgid(0) == 0 ? "setgid " : "";
  ways += ::setgroups(0, nullptr) == 0 ? "setgroups " : "";
  return ways + (::getuid() == 0 || ::geteuid() == 0 ? "root" : "not root");
}

TEST_CASE("keep_only: what is named stays, everything else goes from every set", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  struct Row {
    Capabilities kept;
    const char* set;
  };
  for (const Row& row : {Row{{}, "0000000000000000"},
                         Row{{CAP_CHOWN}, "0000000000000001"},
                         Row{{CAP_KILL}, "0000000000000020"},
                         Row{{CAP_KILL, CAP_KILL}, "0000000000000020"},
                         Row{{CAP_KILL, CAP_SETUID, CAP_SETGID, CAP_SETPCAP}, "00000000000001e0"},
                         Row{{CAP_AUDIT_READ}, "0000002000000000"}}) {
    INFO(row.set);
    CHECK(in_child([&] {
            keep_only(row.kept);
            return capabilities();
          }) == sets(row.set, row.set));
  }
}

TEST_CASE("keep_only: what is not there any more is not missed", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          keep_only({CAP_KILL, CAP_SETPCAP});
          keep_only({CAP_KILL, CAP_CHOWN});
          return capabilities();
        }) == sets("0000000000000020", "0000000000000020"));
}

TEST_CASE("keep_only: without CAP_SETPCAP the bounding set stays as it is", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          keep_only({CAP_KILL, CAP_CHOWN});
          keep_only({CAP_KILL});
          return capabilities();
        }) == sets("0000000000000020", "0000000000000021"));
}

TEST_CASE("keep_only: a user has nothing to keep and it is no error", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(as_user(kUser,
                [] {
                  keep_only({CAP_KILL, CAP_SETUID});
                  return status({"CapInh", "CapPrm", "CapEff", "CapAmb"});
                }) ==
        "CapInh: " + kNone + "; CapPrm: " + kNone + "; CapEff: " + kNone + "; CapAmb: " + kNone);
}

TEST_CASE("keep_only: inheritable and ambient capabilities go, too", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          fill_inheritable_and_ambient();
          keep_only({CAP_KILL});
          return capabilities();
        }) == sets("0000000000000020", "0000000000000020"));
}

TEST_CASE("keep_only: who keeps CAP_KILL has no way to be another user", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          keep_only({CAP_KILL});
          return std::string(::setresuid(kUser, kUser, kUser) == 0 ? "changed" : "stays");
        }) == "stays");
}

TEST_CASE("become: root is another user in every respect, and for good", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  struct Row {
    Credentials who;
    const char* status;
  };
  for (const Row& row : {
           Row{{kUser, kUser, {}},
               "Uid: 12345 12345 12345 12345; Gid: 12345 12345 12345 12345; Groups:; "},
           Row{{kUser, 7, {8, 106}}, "Uid: 12345 12345 12345 12345; Gid: 7 7 7 7; Groups: 8 106; "},
           Row{{1890000001, 1890000001, {}},
               "Uid: 1890000001 1890000001 1890000001 1890000001; Gid: 1890000001 1890000001 "
               "1890000001 1890000001; Groups:; "},
       }) {
    INFO(row.status);
    CHECK(in_child([&] {
            become(row.who);
            return status({"Uid", "Gid", "Groups"}) + "; " + capabilities() + "; " +
                   status({"NoNewPrivs"}) + "; " + ways_back();
          }) == row.status + sets(kNone, kNone) + "; NoNewPrivs: 1; not root");
  }
}

TEST_CASE("become: a user stays that user, and gives up what could be gained", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(as_user(kUser,
                [] {
                  become({kUser, kUser, {}});
                  return status({"Uid", "Gid", "CapPrm", "NoNewPrivs"}) + "; " + ways_back();
                }) == "Uid: 12345 12345 12345 12345; Gid: 12345 12345 12345 12345; CapPrm: " +
                          kNone + "; NoNewPrivs: 1; not root");
}

TEST_CASE("become: what was inherited or ambient goes, too", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          fill_inheritable_and_ambient();
          become({kUser, kUser, {}});
          return capabilities();
        }) == sets(kNone, kNone));
}

TEST_CASE("become: a user who has capabilities gives them up", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          base::check(::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0), "keep the capabilities");
          base::check(::setgroups(0, nullptr), "drop the groups");
          base::check(::setresgid(kUser, kUser, kUser), "change the gid");
          base::check(::setresuid(kUser, kUser, kUser), "change the uid");
          fill_inheritable_and_ambient();
          become({kUser, kUser, {}});
          return capabilities() + "; " + ways_back();
        }) == sets(kNone, kNone) + "; not root");
}

TEST_CASE("become: nobody may trace the process afterwards", "[sandbox]") {
  const auto dumpable_after_become = [] {
    base::check(::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "allow tracing");
    become({::getuid() == 0 ? kUser : ::getuid(), ::getuid() == 0 ? kUser : ::getgid(), {}});
    return std::to_string(::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
  };
  CHECK(in_child(dumpable_after_become) == "0");
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(as_user(kUser, dumpable_after_become) == "0");
}

TEST_CASE("become: securebits are locked, where that is possible", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          become({kUser, kUser, {}});
          return std::to_string(::prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
        }) == "239");  // all but KEEP_CAPS, and all of them locked
}

TEST_CASE("become: root that cannot give up the bounding set is refused", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          keep_only({CAP_SETUID, CAP_SETGID});
          become({kUser, kUser, {}});
          return std::string("became");
        }).find("Cannot empty the bounding set (this root lacks CAP_SETPCAP)") !=
        std::string::npos);
}

TEST_CASE("proof: the kernel's word is what counts", "[sandbox]") {
  const auto refusal_of = [](const Credentials& who, bool for_good) {
    try {
      Proof().require(who, for_good);
    } catch (const std::system_error& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  const auto says = [&](const std::string& refusal, const std::string& line) {
    return refusal.find("the kernel does not say\n" + line) != std::string::npos;
  };
  CHECK(says(refusal_of({4242, ::getgid(), {}}, false), "Uid:\t4242\t4242\t4242\t4242"));
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(says(refusal_of({0, 0, {}}, false), "NoNewPrivs:\t1"));
  CHECK(in_child([&] {
          base::check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
          return says(refusal_of({0, 0, {}}, false), "CapPrm:\t0000000000000000") ? "caught" : "";
        }) == "caught");
  CHECK(in_child([] {
          base::check(::setgroups(0, nullptr), "drop the groups");
          Proof().require_groups({});
          const std::array<gid_t, 2> groups = {106, 8};
          base::check(::setgroups(groups.size(), groups.data()), "set groups");
          Proof().require_groups({106, 8});
          try {
            Proof().require_groups({8});
          } catch (const std::system_error&) {
            return "caught";
          }
          return "";
        }) == "caught");
  CHECK(as_user(kUser, [&] {
          become({kUser, kUser, {}});
          return refusal_of({kUser, kUser, {}}, true);
        }).find("CapBnd") != std::string::npos);
}

TEST_CASE("forbid_tracing: the process is nobody's to trace", "[sandbox]") {
  CHECK(in_child([] {
          forbid_tracing();
          return std::to_string(::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
        }) == "0");
}

TEST_CASE("become: a user cannot be another one", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  struct Row {
    Credentials who;
    const char* error;
  };
  for (const Row& row : {
           Row{{0, 0, {}}, "Cannot change to uid 0 without being root: Operation not permitted"},
           Row{{kOther, kUser, {}},
               "Cannot change to uid 12346 without being root: Operation not permitted"},
           Row{{kUser, kOther, {}},
               "Cannot change to uid 12345 without being root: Operation not permitted"},
       }) {
    INFO(row.error);
    CHECK(as_user(kUser, [&] {
            become(row.who);
            return std::string("became it");
          }) == std::string("threw: ") + row.error);
  }
}

TEST_CASE("become: root that would stay root, or could be it again, is refused", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  const std::string refused =
      "threw: Cannot give up root: it could be had again: Operation not permitted";
  CHECK(in_child([] {
          become({0, 0, {}});
          return std::string("became it");
        }) == refused);
  CHECK(in_child([] {
          // Such as a program with the set-uid bit: another uid now, root in reserve.
          base::check(::setresgid(kUser, kUser, kUser), "change the gid");
          base::check(::setresuid(kUser, kUser, 0), "change the uid");
          become({kUser, kUser, {}});
          return std::string("became it");
        }) == refused);
}

TEST_CASE("become: a uid that means no change to the kernel is refused", "[sandbox]") {
  if (tests::skipped_without_root()) {
    return;
  }
  CHECK(in_child([] {
          become({static_cast<uid_t>(-1), static_cast<gid_t>(-1), {}});
          return std::string("became it");
        }) == "threw: Cannot give up root: it could be had again: Operation not permitted");
}

}  // namespace
}  // namespace vmlaunch::sandbox
