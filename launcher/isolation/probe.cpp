#include "launcher/isolation/probe.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <utility>

#include "base/affinity.hpp"
#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/process.hpp"

namespace vmlaunch::launcher::isolation {

namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kPeriod = 1'000'000;
constexpr std::uint64_t kGap = 1000;

std::uint64_t now() {
  timespec time{};
  static_cast<void>(::clock_gettime(CLOCK_MONOTONIC, &time));
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond +
         static_cast<std::uint64_t>(time.tv_nsec);
}

Histogram find_gaps(std::uint64_t until) {
  Histogram gaps;
  for (std::uint64_t last = now(); last < until;) {
    const std::uint64_t next = now();
    if (next - last >= kGap) {
      gaps.add(next - last);
    }
    last = next;
  }
  return gaps;
}

Histogram find_wakings(std::uint64_t until) {
  Histogram wakings;
  static_cast<void>(::prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0));
  for (std::uint64_t due = now() + kPeriod; due < until; due += kPeriod) {
    const timespec time{static_cast<time_t>(due / kSecond), static_cast<long>(due % kSecond)};
    while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == EINTR) {
    }
    const std::uint64_t woken = now();
    wakings.add(woken - due);
    due = std::max(due, woken / kPeriod * kPeriod);  // periods that it slept through are over
  }
  return wakings;
}

[[noreturn]] void work(unsigned cpu, std::uint64_t begin, std::uint64_t time, int answer) {
  if (base::set_affinity(0, {cpu}) != 0) {
    ::_exit(1);
  }
  while (now() < begin) {
  }
  Probe probe;
  probe.gaps = find_gaps(begin + time / 2);
  probe.wakings = find_wakings(begin + time);
  ::_exit(::write(answer, &probe, sizeof probe) == sizeof probe ? 0 : 1);
}

/// One CPU's.
struct Worker {
  unsigned cpu;
  base::Child child;
  base::UniqueFd answer;
};

}  // namespace

void Histogram::add(std::uint64_t nanoseconds) {
  const auto bucket = static_cast<std::size_t>(std::bit_width(nanoseconds / 1000));
  ++counts[std::min(bucket, counts.size() - 1)];
  longest_ns = std::max(longest_ns, nanoseconds);
}

std::vector<std::pair<unsigned, Probe>> probe(const base::CpuSet& cpus,
                                              std::chrono::milliseconds time) {
  const auto length = static_cast<std::uint64_t>(std::chrono::nanoseconds(time).count());
  const std::uint64_t begin = now() + 10 * kPeriod;  // all together
  std::vector<Worker> workers;
  for (const unsigned cpu : cpus) {
    base::Pipe pipe = base::make_pipe();
    base::Child child = base::fork_child("a probe");
    if (child.pid == 0) {
      work(cpu, begin, length, pipe.write_end.get());
    }
    workers.push_back({cpu, std::move(child), std::move(pipe.read_end)});
  }
  std::vector<std::pair<unsigned, Probe>> probes;
  for (const Worker& worker : workers) {
    Probe found;
    const auto limit = time * 2 + std::chrono::seconds(10);
    const auto status = base::reap_within(worker.child.pidfd.get(), limit);
    if (!status) {
      static_cast<void>(base::send_signal(worker.child.pidfd.get(), SIGKILL));
      static_cast<void>(base::reap_within(worker.child.pidfd.get(), std::chrono::seconds(10)));
    } else if (*status == base::ExitStatus{} &&
               ::read(worker.answer.get(), &found, sizeof found) == sizeof found) {
      probes.emplace_back(worker.cpu, found);
    }
  }
  return probes;
}

}  // namespace vmlaunch::launcher::isolation
