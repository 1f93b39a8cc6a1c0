#include "sandbox/policy.hpp"

#include <fcntl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "sandbox/filter.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::sandbox {
namespace {

std::string problem(const std::string& text) {
  try {
    static_cast<void>(parse_policy(text));
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing";
}

constexpr pid_t kSelf = 77;

/// "allow", "start", …, or "no rule".
std::string answer(const std::vector<std::string>& sections,
                   const std::string& name,
                   std::array<std::uint64_t, 6> arguments = {}) {
  static const std::vector<std::string> kNames = {
      "allow", "start", "once", "refuse", "eperm", "enosys", "kill"};
  const Filter filter(own_policy(), sections, Filter::Mode::enforce);
  const CallRule* rule = filter.find({call_number(name).value(), arguments}, kSelf);
  return rule != nullptr ? kNames.at(static_cast<std::size_t>(rule->answer)) : "no rule";
}

}  // namespace

TEST_CASE("policy: rules, conditions and sections are read", "[sandbox]") {
  const Policy policy = parse_policy(
      "# a comment\n\n"
      "newest 450\n"
      "[base]\n"
      "allow read write  # data\n"
      "kill mmap if arg2 & 0x4 == 0x4 and arg5 == 16  # why\n"
      "[more]\n"
      "start tgkill if arg0 == self  # why\n");
  CHECK(policy.newest == 450);
  CHECK(policy.sections.size() == 2);
  CHECK(policy.sections.at("base") ==
        std::vector<CallRule>{{"read", {}, Answer::allow},
                              {"write", {}, Answer::allow},
                              {"mmap", {{2, 4, 4}, {5, ~0ULL, 16}}, Answer::kill}});
  CHECK(policy.sections.at("more") ==
        std::vector<CallRule>{{"tgkill", {{0, ~0ULL, 0, true}}, Answer::start}});
}

TEST_CASE("policy: each mistake is told with its line", "[sandbox]") {
  struct Mistake {
    const char* line;
    const char* problem;
  };
  const std::vector<Mistake> mistakes = {
      {"allow read", "a rule that does not say why: end it with \"# \" and the reason"},
      {"permit read  # x", "\"permit\" is no answer to a call"},
      {"allow  # x", "a rule about no call"},
      {"allow read if  # x", "\"\" is not an argument, arg0 to arg5"},
      {"allow read if arg6 == 1  # x", "\"arg6\" is not an argument, arg0 to arg5"},
      {"allow read if arg0 & == 1  # x", "\"==\" is not a number"},
      {"allow read if arg0 = 1  # x", "expected \"==\", found \"=\""},
      {"allow read if arg0 == one  # x", "\"one\" is not a number"},
      {"allow read if arg0 == -1  # x", "\"-1\" is not a number"},
      {"allow read if arg0 == 0x1g  # x", "\"0x1g\" is not a number"},
      {"allow read if arg0 & 2 == 1  # x",
       "a condition that never holds: the value has bits that the mask lacks"},
      {"allow read if arg0 == 1 or arg1 == 1  # x", "expected \"and\", found \"or\""},
      {"allow read if arg0 == 1 and arg0 == 2  # x", "two conditions about one argument"},
      {"[base]", "the section [base] stands twice"},
      {"[x", "\"[x\" is no section"},
      {"[]", "\"[]\" is no section"},
      {"[x] y", "\"y\" is too much"},
      {"newest x", "\"x\" is not a number"},
  };
  for (const Mistake& mistake : mistakes) {
    INFO(mistake.line);
    CHECK(problem(std::string("newest 1\n[base]\n") + mistake.line + "\n") ==
          std::string("line 3: ") + mistake.problem);
  }
  CHECK(problem("newest 1\nallow read  # x\n") == "line 2: a rule outside of a section");
  CHECK(problem("[base]\n") == "no \"newest\"");
  CHECK(problem("newest 1\n") == "no section [base]");
  CHECK(problem("newest 1\n[base]\nkill read  # x\n[a]\nallow read  # x\n") ==
        "the call read is killed, and answered otherwise too");
}

TEST_CASE("policy: QEMU's names calls that there are", "[sandbox]") {
  for (const auto& [name, rules] : own_policy().sections) {
    for (const CallRule& rule : rules) {
      INFO(name << ": " << rule.call);
      CHECK(call_number(rule.call).has_value());
    }
  }
}

TEST_CASE("policy: what a VM's devices need is allowed with them alone", "[sandbox]") {
  const std::uint64_t kvm_run = 0xae80;
  const std::uint64_t kvm_sign_extended = 0xffffffff8138ae8cULL;  // KVM_GET_… as an int
  const std::uint64_t vfio_reset = 0x3b6f;
  const std::uint64_t tunsetiff = 0x400454ca;
  const std::uint64_t tungetiff = 0x800454d2;
  const std::uint64_t tunsetpersist = 0x400454cb;
  const std::uint64_t usb_submit = 0x8038550a;
  CHECK(answer({}, "read") == "allow");
  CHECK(answer({}, "ioctl", {0, kvm_run}) == "refuse");
  CHECK(answer({"kvm"}, "ioctl", {0, kvm_run}) == "allow");
  CHECK(answer({"kvm"}, "ioctl", {0, kvm_sign_extended}) == "allow");
  CHECK(answer({"kvm"}, "ioctl", {0, vfio_reset}) == "refuse");
  CHECK(answer({"vfio"}, "ioctl", {0, vfio_reset}) == "allow");
  CHECK(answer({"tap"}, "ioctl", {0, tungetiff}) == "allow");
  CHECK(answer({"tap"}, "ioctl", {0, tunsetiff}) == "refuse");
  CHECK(answer({"tap"}, "ioctl", {0, tunsetpersist}) == "refuse");
  CHECK(answer({"usb"}, "ioctl", {0, usb_submit}) == "allow");
  CHECK(answer({}, "io_submit") == "no rule");
  CHECK(answer({"disk-native"}, "io_submit") == "allow");
  CHECK(answer({"disk-native"}, "io_uring_setup") == "enosys");
  CHECK(answer({}, "socket", {2}) == "eperm");
  CHECK(answer({"user-network"}, "socket", {2, 0x80801, 0}) == "allow");
  CHECK(answer({"user-network"}, "socket", {10, 2, 58}) == "allow");
  CHECK(answer({"user-network"}, "socket", {2, 1, 262}) == "eperm");  // MPTCP
  CHECK(answer({"user-network"}, "socket", {2, 3, 0}) == "eperm");    // raw
  CHECK(answer({"user-network"}, "socket", {16, 2, 0}) == "eperm");
  CHECK(answer({"user-network"}, "setsockopt", {0, 6, 1}) == "allow");
  CHECK(answer({"user-network"}, "setsockopt", {0, 1, 26}) == "start");  // SO_ATTACH_FILTER
  CHECK(answer({"vnc"}, "socket", {2}) == "start");
  CHECK(answer({"usb"}, "socket", {16, 3, 15}) == "start");
  CHECK(answer({"usb"}, "socket", {16, 3, 0}) == "eperm");
  CHECK(answer({"pulse"}, "connect") == "start");
  CHECK(answer({"pulse", "user-network"}, "connect") == "allow");
  CHECK(answer({"block-device"}, "ioctl", {0, 0x2285}) == "eperm");
  CHECK(answer({"block-device"}, "ioctl", {0, 0x125f}) == "refuse");  // BLKRRPART
  for (const std::uint64_t terminal : {0x5412U, 0x541cU}) {           // TIOCSTI, TIOCLINUX
    CHECK(answer({"kvm", "vfio", "usb", "tap", "vhost-net"}, "ioctl", {0, terminal}) == "refuse");
  }
}

TEST_CASE("policy: code comes at the start, threads stay the program's own", "[sandbox]") {
  CHECK(answer({}, "mmap", {0, 4096, 3}) == "allow");
  CHECK(answer({}, "mmap", {0, 4096, 5}) == "start");
  CHECK(answer({}, "mprotect", {0, 4096, 7}) == "start");
  CHECK(answer({}, "clone", {0x3d0f00}) == "allow");
  CHECK(answer({}, "clone", {0x1200011}) == "no rule");
  CHECK(answer({}, "clone3") == "enosys");
  CHECK(answer({}, "tgkill", {kSelf}) == "allow");
  CHECK(answer({}, "tgkill", {kSelf + 1}) == "no rule");
  CHECK(answer({}, "execveat") == "once");
  CHECK(answer({}, "execve") == "no rule");
  CHECK(answer({}, "prlimit64", {0, 7, 0}) == "allow");
  CHECK(answer({}, "prlimit64", {0, 7, 1}) == "eperm");
  CHECK(answer({}, "ptrace") == "kill");
}

TEST_CASE("policy: what is opened once the guest runs is for reading, USB devices aside",
          "[sandbox]") {
  constexpr std::uint64_t kAnywhere = static_cast<std::uint64_t>(AT_FDCWD);
  for (const int flags : {O_RDONLY, O_RDONLY | O_CLOEXEC | O_DIRECTORY}) {
    CHECK(answer({}, "openat", {kAnywhere, 0, static_cast<std::uint64_t>(flags)}) == "allow");
  }
  for (const int flags : {O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE | O_RDWR}) {
    CHECK(answer({}, "openat", {kAnywhere, 0, static_cast<std::uint64_t>(flags)}) == "start");
  }
  CHECK(answer({"usb"}, "openat", {kAnywhere, 0, O_RDWR}) == "allow");
  CHECK(answer({"usb"}, "openat", {kAnywhere, 0, O_RDWR | O_CREAT}) == "start");
  CHECK(answer({}, "unlink") == "start");
  CHECK(answer({}, "fcntl", {0, F_SETFL, O_NONBLOCK}) == "allow");
  CHECK(answer({}, "fcntl", {0, F_SETFL, O_ASYNC}) == "refuse");
}

TEST_CASE("policy: a section that it does not have is refused", "[sandbox]") {
  CHECK_THROWS_WITH(Filter(own_policy(), {"kvn"}, Filter::Mode::enforce), "no such section: kvn");
}

}  // namespace vmlaunch::sandbox
