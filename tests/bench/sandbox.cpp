// What QEMU's sandbox costs: the filter at each ioctl of a vCPU's kind, beside none; and the making
// of the child, beside a bare fork and exec. Needs no KVM: an ioctl that the device refuses takes
// the same way through the filter.

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "sandbox/filter.hpp"
#include "sandbox/private_dev.hpp"
#include "sandbox/spawn.hpp"
#include "tests/bench/rounds.hpp"

namespace {

using namespace vmlaunch;
using bench::median;

constexpr double kCallLimit = 50;  // ns
constexpr double kChildLimit = 5;  // ms
constexpr unsigned long kRun = 0xae80;
constexpr int kCalls = 2'000'000;
constexpr std::chrono::seconds kEnd{60};

sandbox::Filter filter() {
  return {sandbox::own_policy(),
          {"kvm", "vfio", "tap", "vhost-net", "block-device", "disk-native", "usb"},
          sandbox::Filter::Mode::enforce};
}

/// In ns, of a child that lives for it.
double time_of_call(bool filtered) {
  base::Pipe result = base::make_pipe();
  const base::Child child = base::fork_child("a child that calls");
  if (child.pid == 0) {
    const base::UniqueFd null = base::open_file("/dev/null", O_RDWR);
    base::UniqueFd listener;
    if (filtered) {
      base::check(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs");
      listener = filter().install();
    }
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; ++i) {
      static_cast<void>(::ioctl(null.get(), kRun, 0));
    }
    const std::chrono::duration<double, std::nano> elapsed =
        std::chrono::steady_clock::now() - start;
    base::write_all(result.write_end.get(), std::to_string(elapsed.count() / kCalls), "the time");
    ::_exit(0);
  }
  result.write_end.reset();
  const std::string text = base::read_all(result.read_end.get(), 100, "the time");
  static_cast<void>(base::reap_within(child.pidfd.get(), kEnd));
  return std::stod(text);
}

double time_of_bare_child() {
  const double before = bench::childrens_time();
  const base::Child child = base::fork_child("a bare child");
  if (child.pid == 0) {
    ::execl("/bin/true", "true", nullptr);
    ::_exit(127);
  }
  static_cast<void>(base::reap_within(child.pidfd.get(), kEnd));
  return bench::childrens_time() - before;
}

double time_of_our_child() {
  const bool is_root = ::geteuid() == 0;
  sandbox::ChildSpec spec;
  const base::UniqueFd program = base::open_file("/bin/true", O_PATH);
  spec.program = program.get();
  spec.arguments = {"true"};
  spec.credentials = is_root ? sandbox::Credentials{12345, 12345, {}}
                             : sandbox::Credentials{::getuid(), ::getgid(), {}};
  spec.calls = filter();
  spec.root.emplace();
  spec.root->shared = {"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"};
  std::optional<sandbox::PrivateDev> dev;
  if (is_root) {
    dev.emplace(spec.credentials);
    spec.root->dev = dev->tree();
  }
  const double before = bench::childrens_time();
  sandbox::Spawned spawned = sandbox::spawn(spec);
  using std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kLook{10};
  while (!base::wait_readable(spawned.child.pidfd.get(), steady_clock::now())) {
    if (base::wait_readable(spawned.watch->fd(), steady_clock::now() + kLook)) {
      static_cast<void>(spawned.watch->serve());
    }
  }
  static_cast<void>(base::reap_within(spawned.child.pidfd.get(), kEnd));
  return bench::childrens_time() - before;
}

bool report(const char* what, const char* unit, double bare, double ours, double limit) {
  const bool met = ours - bare <= limit;
  std::printf("%s: bare %.2f %s, vmlaunch %.2f %s, difference %.2f (at most %.0f: %s)\n",
              what,
              bare,
              unit,
              ours,
              unit,
              ours - bare,
              limit,
              met ? "met" : "missed");
  return met;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench_sandbox ROUNDS\n");
    return 2;
  }
  const int rounds = std::max(1, std::atoi(argv[1]));
  std::vector<double> bare_call;
  std::vector<double> our_call;
  std::vector<double> bare_child;
  std::vector<double> our_child;
  for (int round = 0; round < rounds; ++round) {
    bare_call.push_back(time_of_call(false));
    our_call.push_back(time_of_call(true));
    bare_child.push_back(time_of_bare_child());
    our_child.push_back(time_of_our_child());
  }
  const bool call =
      report("an ioctl of KVM's", "ns", median(bare_call), median(our_call), kCallLimit);
  const bool child =
      report("processor time of a child", "ms", median(bare_child), median(our_child), kChildLimit);
  return call && child ? 0 : 1;
}
