#include "tests/support/live_filters.hpp"

#include <linux/audit.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "base/errors.hpp"

namespace vmlaunch::tests {

namespace {

/// Holds a process still as long as it lives.
class Tracer {
 public:
  explicit Tracer(pid_t pid) : pid_(pid) {
    base::check(::ptrace(PTRACE_SEIZE, pid_, nullptr, nullptr), "trace a process");
    base::check(::ptrace(PTRACE_INTERRUPT, pid_, nullptr, nullptr), "stop it");
    int status = 0;
    base::check(::waitpid(pid_, &status, __WALL), "wait for it to stop");
  }
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;
  Tracer(Tracer&&) = delete;
  Tracer& operator=(Tracer&&) = delete;
  ~Tracer() { ::ptrace(PTRACE_DETACH, pid_, nullptr, nullptr); }

  /// Empty past the last.
  [[nodiscard]] LiveFilter filter(std::size_t index) const {
    LiveFilter filter(BPF_MAXINSNS);
    const auto count = ::syscall(SYS_ptrace, PTRACE_SECCOMP_GET_FILTER, pid_, index, filter.data());
    if (count < 0 && errno == ENOENT) {
      return {};
    }
    filter.resize(static_cast<std::size_t>(base::check(count, "read a filter")));
    return filter;
  }

 private:
  pid_t pid_;
};

std::uint32_t word_at(const seccomp_data& call, std::uint32_t offset) {
  if (offset > sizeof call - sizeof(std::uint32_t)) {
    throw std::runtime_error("a filter reads past the call");
  }
  std::uint32_t word = 0;
  std::memcpy(&word, reinterpret_cast<const char*>(&call) + offset, sizeof word);
  return word;
}

bool holds(const sock_filter& jump, std::uint32_t accumulator) {
  switch (BPF_OP(jump.code)) {
    case BPF_JEQ:
      return accumulator == jump.k;
    case BPF_JGT:
      return accumulator > jump.k;
    case BPF_JGE:
      return accumulator >= jump.k;
    case BPF_JSET:
      return (accumulator & jump.k) != 0;
    default:
      throw std::runtime_error("an unknown jump in a filter");
  }
}

/// SECCOMP_RET_KILL_PROCESS is the lowest, as a signed number.
std::int32_t strictness(std::uint32_t answer) {
  return static_cast<std::int32_t>(answer & SECCOMP_RET_ACTION_FULL);
}

}  // namespace

std::vector<LiveFilter> live_filters(pid_t pid) {
  const Tracer tracer(pid);
  std::vector<LiveFilter> filters;
  for (LiveFilter filter = tracer.filter(0); !filter.empty();
       filter = tracer.filter(filters.size())) {
    filters.push_back(std::move(filter));
  }
  return filters;
}

std::uint32_t run_filter(const LiveFilter& filter, const seccomp_data& call) {
  std::uint32_t accumulator = 0;
  for (std::size_t at = 0; at < filter.size(); ++at) {
    const sock_filter& step = filter[at];
    switch (step.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        accumulator = word_at(call, step.k);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= step.k;
        break;
      case BPF_RET | BPF_K:
        return step.k;
      case BPF_JMP | BPF_JA:
        at += step.k;
        break;
      default:
        if (BPF_CLASS(step.code) != BPF_JMP || BPF_SRC(step.code) != BPF_K) {
          throw std::runtime_error("an unknown step in a filter");
        }
        at += holds(step, accumulator) ? step.jt : step.jf;
        break;
    }
  }
  throw std::runtime_error("a filter without an end");
}

std::uint32_t run_filters(const std::vector<LiveFilter>& filters, const seccomp_data& call) {
  std::uint32_t strictest = SECCOMP_RET_ALLOW;
  for (const LiveFilter& filter : filters) {
    strictest = std::min(strictest, run_filter(filter, call), [](auto left, auto right) {
      return strictness(left) < strictness(right);
    });
  }
  return strictest;
}

seccomp_data call_of(int number, std::uint64_t argument) {
  seccomp_data call{};
  call.nr = number;
  call.arch = AUDIT_ARCH_X86_64;
  std::fill(std::begin(call.args), std::end(call.args), argument);
  return call;
}

}  // namespace vmlaunch::tests
