#include "tests/bench/rounds.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <utility>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::bench {

using std::chrono::steady_clock;

namespace {

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
  std::vector<std::string> words = plan["qemu"]["arguments"];
  words.insert(words.begin(), plan["qemu"]["binary"].get<std::string>());
  become(std::move(words));
}

}  // namespace

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

void become(std::vector<std::string> words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) {
    pointers.push_back(word.data());
  }
  pointers.push_back(nullptr);
  ::execv(pointers.front(), pointers.data());
  ::_exit(127);
}

Life bare_life(const Json& plan) {
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
  Life life{milliseconds_since(start), 0};
  const auto end = steady_clock::now();
  base::write_all(qmp.get(), "{\"execute\":\"quit\"}\n", "the monitor");
  if (!base::reap_within(child.pidfd.get(), std::chrono::seconds(10))) {
    std::fprintf(stderr, "bare QEMU does not end\n");
    std::exit(1);
  }
  life.stop = milliseconds_since(end);
  return life;
}

double childrens_time() {
  rusage used{};
  ::getrusage(RUSAGE_CHILDREN, &used);
  double sum = 0;
  for (const timeval& time : {used.ru_utime, used.ru_stime}) {
    sum += static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
  }
  return sum;
}

double number_in(const std::string& path, const std::string& name) {
  std::istringstream lines(base::read_file(path));
  double sum = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name)) {
      sum += std::strtod(line.c_str() + name.size(), nullptr);
    }
  }
  return sum;
}

double our_start(const std::string& config) {
  tests::Launch launch;
  launch.arguments = {VMLAUNCH_PROGRAM, config};
  const auto start = steady_clock::now();
  tests::Program program(launch);
  if (!program.says("] running")) {
    std::fprintf(stderr, "%s\n", program.output().c_str());
    std::exit(1);
  }
  const double elapsed = milliseconds_since(start);
  end_in_a_hurry(program);
  return elapsed;
}

void end_in_a_hurry(tests::Program& program) {
  for (int request = 0; request < 3; ++request) {
    program.signal(SIGINT);
    static_cast<void>(program.says("x", tests::Seconds(0.02)));
  }
  static_cast<void>(program.wait());
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

bool report(const std::string& what,
            const std::vector<double>& bare,
            const std::vector<double>& ours,
            double limit) {
  std::vector<double> ratios;
  for (std::size_t round = 0; round < bare.size(); ++round) {
    ratios.push_back(ours[round] / bare[round]);
  }
  const double ratio = median(ratios);
  std::printf("%s, %zu rounds: bare %.1f ms, vmlaunch %.1f ms, ratio %.3f (at most %.2f: %s)\n",
              what.c_str(),
              bare.size(),
              median(bare),
              median(ours),
              ratio,
              limit,
              ratio <= limit ? "met" : "missed");
  return ratio <= limit;
}

}  // namespace vmlaunch::bench
