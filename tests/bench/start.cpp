// From the start of the command to the running guest: vmlaunch beside bare QEMU with the same
// arguments, files and descriptors. The two take turns; each round gives one ratio, and the median
// of the ratios is what counts, since absolute times do not travel from machine to machine.

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "tests/support/program.hpp"

namespace {

using namespace vmlaunch;
using Json = nlohmann::json;
using std::chrono::steady_clock;

double milliseconds_since(steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(steady_clock::now() - start).count();
}

Json plan_of(const std::string& config) {
  tests::Launch launch;
  launch.arguments = {VMLAUNCH_PROGRAM, "plan", "--json", config};
  tests::Program program(launch);
  if (program.exit_code() != 0) {
    std::fprintf(stderr, "%s\n", program.output().c_str());
    std::exit(1);
  }
  return Json::parse(program.output());
}

/// The monitor as a person's script would use it: one line out, one line back.
void talk(int qmp, const std::string& command) {
  base::write_all(qmp, command + "\n", "the monitor");
  std::string got;
  std::array<char, 4096> piece{};
  while (got.find("\"return\"") == std::string::npos) {
    const ssize_t length = ::read(qmp, piece.data(), piece.size());
    if (length <= 0) {
      std::fprintf(stderr, "bare QEMU ended\n");
      std::exit(1);
    }
    got.append(piece.data(), static_cast<std::size_t>(length));
  }
}

[[noreturn]] void exec_bare(const Json& plan, int qmp, int serial) {
  ::dup2(qmp, 3);
  ::dup2(serial, 4);
  for (const Json& file : plan["files"]) {
    const int fd = ::open(file["path"].get<std::string>().c_str(), O_RDONLY);
    ::dup2(fd, file["descriptor"].get<int>());
  }
  std::vector<std::string> arguments = plan["qemu"]["arguments"];
  const std::string binary = plan["qemu"]["binary"];
  arguments.insert(arguments.begin(), binary);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) {
    pointers.push_back(argument.data());
  }
  pointers.push_back(nullptr);
  ::execv(binary.c_str(), pointers.data());
  ::_exit(127);
}

double bare(const Json& plan) {
  auto [qmp, qemus_qmp] = base::make_socket_pair(SOCK_STREAM);
  auto [serial, qemus_serial] = base::make_socket_pair(SOCK_STREAM);
  const auto start = steady_clock::now();
  const base::Child child = base::fork_child("QEMU");
  if (child.pid == 0) {
    // Out of the way of the numbers that the plan gives.
    exec_bare(
        plan, ::fcntl(qemus_qmp.get(), F_DUPFD, 100), ::fcntl(qemus_serial.get(), F_DUPFD, 100));
  }
  qemus_qmp.reset();
  talk(qmp.get(), R"({"execute":"qmp_capabilities"})");
  talk(qmp.get(), R"({"execute":"cont"})");
  const double elapsed = milliseconds_since(start);
  static_cast<void>(base::send_signal(child.pidfd.get(), SIGKILL));
  static_cast<void>(base::reap_within(child.pidfd.get(), std::chrono::seconds(10)));
  return elapsed;
}

double launched(const std::string& config) {
  tests::Launch launch;
  launch.arguments = {VMLAUNCH_PROGRAM, config};
  const auto start = steady_clock::now();
  tests::Program program(launch);
  if (!program.says("] running")) {
    std::fprintf(stderr, "%s\n", program.output().c_str());
    std::exit(1);
  }
  const double elapsed = milliseconds_since(start);
  for (int request = 0; request < 3; ++request) {
    program.signal(SIGINT);
    static_cast<void>(program.says("x", tests::Seconds(0.02)));
  }
  static_cast<void>(program.wait());
  return elapsed;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: bench_start CONFIG ROUNDS\n");
    return 2;
  }
  const std::string config = std::string(argv[1]).front() == '/'
                                 ? argv[1]
                                 : std::string(::get_current_dir_name()) + "/" + argv[1];
  const int rounds = std::max(1, std::atoi(argv[2]));
  const Json plan = plan_of(config);
  std::vector<double> bare_times;
  std::vector<double> our_times;
  std::vector<double> ratios;
  bare(plan);  // both once for the caches
  launched(config);
  for (int round = 0; round < rounds; ++round) {
    bare_times.push_back(bare(plan));
    our_times.push_back(launched(config));
    ratios.push_back(our_times.back() / bare_times.back());
  }
  const double ratio = median(ratios);
  std::printf(
      "start to running, %d rounds: bare %.1f ms, vmlaunch %.1f ms, ratio %.3f (at most 1.15: "
      "%s)\n",
      rounds,
      median(bare_times),
      median(our_times),
      ratio,
      ratio <= 1.15 ? "met" : "missed");
  return ratio <= 1.15 ? 0 : 1;
}
