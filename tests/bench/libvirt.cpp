#include "tests/bench/libvirt.hpp"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <utility>
#include <vector>

#include "base/file.hpp"
#include "tests/bench/rounds.hpp"

namespace vmlaunch::bench {

namespace {

constexpr const char* kDaemon = "/usr/sbin/libvirtd";
constexpr const char* kLogDaemon = "/usr/sbin/virtlogd";
constexpr const char* kVirsh = "/usr/bin/virsh";

/// Of the process and of its children that have ended: fields 14 to 17 of its stat (proc(5)).
double time_of(pid_t pid) {
  const std::string stat = base::read_file("/proc/" + std::to_string(pid) + "/stat");
  std::istringstream words(stat.substr(stat.rfind(')') + 2));
  std::string word;
  for (int field = 3; field < 14; ++field) {
    words >> word;
  }
  double ticks = 0;
  for (int field = 14; field < 18; ++field) {
    double part = 0;
    words >> part;
    ticks += part;
  }
  return ticks * 1000 / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

/// Starts programs, and waits for all that is left to this process, until nothing is.
[[noreturn]] void reap_below(const std::vector<std::vector<std::string>>& programs,
                             const std::string& log) {
  static_cast<void>(::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
  const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  for (const std::vector<std::string>& words : programs) {
    if (::fork() == 0) {
      become(words);
    }
  }
  while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {
  }
  ::_exit(0);
}

}  // namespace

bool Libvirt::can_run() {
  return ::geteuid() == 0 && std::filesystem::exists(kDaemon) &&
         std::filesystem::exists(kLogDaemon) && std::filesystem::exists(kVirsh);
}

Libvirt::Libvirt(std::string name, const std::string& domain)
    : name_(std::move(name)), domain_(folder_.write("domain.xml", domain)) {
  std::filesystem::create_directories("/run/libvirt");
  const std::string config = folder_.write("libvirtd.conf",
                                           "unix_sock_dir = \"" + folder_.path() +
                                               "\"\nauth_unix_ro = \"none\"\n"
                                               "auth_unix_rw = \"none\"\n");
  const std::string log = folder_.file("log");
  reaper_ = base::fork_child("a reaper");
  if (reaper_.pid == 0) {
    reap_below({{kLogDaemon, "--pid-file", folder_.file("virtlogd.pid")},
                {kDaemon, "--config", config, "--pid-file", folder_.file("libvirtd.pid")}},
               log);
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!std::filesystem::exists(folder_.file("libvirt-sock"))) {
    if (std::chrono::steady_clock::now() > until) {
      std::fprintf(stderr, "libvirt's daemon does not come up: %s\n", base::read_file(log).c_str());
      std::exit(1);
    }
    ::usleep(10'000);
  }
}

Libvirt::~Libvirt() {
  for (const pid_t pid : daemons()) {
    ::kill(pid, SIGTERM);
  }
  static_cast<void>(base::reap_within(reaper_.pidfd.get(), std::chrono::seconds(30)));
}

std::vector<pid_t> Libvirt::daemons() const {
  std::vector<pid_t> pids;
  for (const char* name : {"libvirtd.pid", "virtlogd.pid"}) {
    pids.push_back(std::atoi(base::read_file(folder_.file(name)).c_str()));
  }
  return pids;
}

double Libvirt::virsh(const std::vector<std::string>& words) const {
  tests::Launch launch;
  launch.arguments = {kVirsh, "-c", "qemu:///system?socket=" + folder_.file("libvirt-sock"), "-q"};
  launch.arguments.insert(launch.arguments.end(), words.begin(), words.end());
  const auto begin = std::chrono::steady_clock::now();
  tests::Program program(launch);
  const int code = program.exit_code(tests::Seconds(60));
  const double time = milliseconds_since(begin);
  if (code != 0) {
    std::fprintf(stderr, "%s\n", program.output().c_str());
    std::exit(1);
  }
  return time;
}

double Libvirt::create() {
  return virsh({"create", domain_});
}

double Libvirt::destroy() {
  return virsh({"destroy", name_});
}

double Libvirt::processor_time() const {
  double sum = 0;
  for (const pid_t pid : daemons()) {
    sum += time_of(pid);
  }
  return sum;
}

double Libvirt::memory() const {
  double sum = 0;
  for (const pid_t pid : daemons()) {
    sum += number_in("/proc/" + std::to_string(pid) + "/smaps_rollup", "Pss:") / 1024;
  }
  return sum;
}

}  // namespace vmlaunch::bench
