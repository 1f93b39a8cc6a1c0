#include "sandbox/filter.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <tuple>

#include <seccomp.h>

#include "base/errors.hpp"
#include "base/file.hpp"

namespace vmlaunch::sandbox {

namespace {

/// BPF_MAXINSNS of 8 bytes.
constexpr std::size_t kMostProgram = std::size_t{4096} * 8;

using Context = std::unique_ptr<void, decltype(&::seccomp_release)>;

/// The library returns negated errno values.
void require(int result, const std::string& action) {
  if (result < 0) {
    base::throw_errno(-result, action);
  }
}

std::uint64_t wanted_value(const Condition& condition, pid_t self) {
  return condition.self ? static_cast<std::uint64_t>(self) : condition.value;
}

bool fits(const CallRule& rule, const Call& call, pid_t self) {
  return std::all_of(
      rule.conditions.begin(), rule.conditions.end(), [&](const Condition& condition) {
        return (call.arguments.at(condition.argument) & condition.mask) ==
               wanted_value(condition, self);
      });
}

/// Lower counts first. Of those that allow, one without a condition makes the others needless.
auto rank(const CallRule& rule) {
  const bool allows = rule.answer == Answer::allow;
  return std::tuple(!allows, allows != rule.conditions.empty(), rule.answer);
}

/// What the kernel answers by itself; nothing where the watch is asked.
std::optional<std::uint32_t> kernel_action(Answer answer) {
  switch (answer) {
    case Answer::allow:
      return SCMP_ACT_ALLOW;
    case Answer::eperm:
      return SCMP_ACT_ERRNO(EPERM);
    case Answer::enosys:
      return SCMP_ACT_ERRNO(ENOSYS);
    case Answer::kill:
      return SCMP_ACT_KILL_PROCESS;
    case Answer::start:
    case Answer::once:
    case Answer::refuse:
      break;
  }
  return std::nullopt;
}

void add_rule(
    const Context& context, int number, const CallRule& rule, std::uint32_t action, pid_t self) {
  std::vector<scmp_arg_cmp> comparisons;
  for (const Condition& condition : rule.conditions) {
    comparisons.push_back(
        {condition.argument, SCMP_CMP_MASKED_EQ, condition.mask, wanted_value(condition, self)});
  }
  require(::seccomp_rule_add_array(context.get(),
                                   action,
                                   number,
                                   static_cast<unsigned>(comparisons.size()),
                                   comparisons.data()),
          "add a rule about " + rule.call + " to the filter");
}

Context make_context() {
  const char* action = "make a filter of system calls";
  Context context(::seccomp_init(SCMP_ACT_NOTIFY), &::seccomp_release);
  if (!context) {
    base::throw_errno(ENOSYS, action);  // the kernel cannot ask about calls
  }
  // The library's own choice is to kill the thread, which leaves a VM that hangs.
  require(::seccomp_attr_set(context.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
          action);
  require(::seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2), action);
  // Else every cause would be "canceled".
  require(::seccomp_attr_set(context.get(), SCMP_FLTATR_API_SYSRAWRC, 1), action);
  return context;
}

/// What the kernel is to answer by itself.
Context build(const Filter::Rules& all, Filter::Mode mode, pid_t self) {
  Context context = make_context();
  for (const auto& [number, rules] : all) {
    for (const CallRule& rule : rules) {
      // Others than "allow" are the kernel's only where they are all that is said of the call.
      const bool is_simple =
          rule.answer == Answer::allow ||
          (rules.size() == 1 && rule.conditions.empty() && mode == Filter::Mode::enforce);
      const auto action = is_simple ? kernel_action(rule.answer) : std::nullopt;
      if (action) {
        add_rule(context, number, rule, *action, self);
      }
      if (rule.answer == Answer::allow && rule.conditions.empty()) {
        break;
      }
    }
  }
  return context;
}

}  // namespace

Filter::Filter(const Policy& policy, const std::vector<std::string>& sections, Mode mode)
    : mode_(mode), newest_(policy.newest) {
  std::vector<std::string> names = sections;
  names.emplace_back(kBaseSection);
  for (const std::string& name : names) {
    const auto section = policy.sections.find(name);
    if (section == policy.sections.end()) {
      throw std::invalid_argument("no such section: " + name);
    }
    for (const CallRule& rule : section->second) {
      if (const auto number = call_number(rule.call)) {
        rules_[*number].push_back(rule);
      }
    }
  }
  for (auto& [number, rules] : rules_) {
    std::stable_sort(rules.begin(), rules.end(), [](const CallRule& left, const CallRule& right) {
      return rank(left) < rank(right);
    });
  }
}

const CallRule* Filter::find(const Call& call, pid_t self) const {
  const auto known = rules_.find(call.number);
  if (known == rules_.end()) {
    return nullptr;
  }
  const auto rule =
      std::find_if(known->second.begin(), known->second.end(), [&](const CallRule& candidate) {
        return fits(candidate, call, self);
      });
  return rule == known->second.end() ? nullptr : &*rule;
}

base::UniqueFd Filter::install() const {
  const Context context = build(rules_, mode_, ::getpid());
  require(::seccomp_load(context.get()), "limit system calls");
  const int listener = ::seccomp_notify_fd(context.get());
  require(listener, "listen for system calls");
  return base::UniqueFd(listener);
}

std::string Filter::program(pid_t self) const {
  const Context context = build(rules_, mode_, self);
  const base::UniqueFd file(
      base::check(::memfd_create("filter", MFD_CLOEXEC), "store a filter of system calls"));
  require(::seccomp_export_bpf(context.get(), file.get()), "read a filter of system calls");
  base::check(::lseek(file.get(), 0, SEEK_SET), "read a filter of system calls");
  return base::read_all(file.get(), kMostProgram, "a filter of system calls");
}

std::optional<int> call_number(const std::string& name) {
  const int number = ::seccomp_syscall_resolve_name(name.c_str());
  return number >= 0 ? std::optional(number) : std::nullopt;
}

std::string call_name(int number) {
  const std::unique_ptr<char, decltype(&std::free)> name(
      ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, number), &std::free);
  return name ? name.get() : "system call " + std::to_string(number);
}

}  // namespace vmlaunch::sandbox
