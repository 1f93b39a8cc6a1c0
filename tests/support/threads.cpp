#include "tests/support/threads.hpp"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::tests {

namespace {

Thread look_at(pid_t id) {
  sched_param parameters{};
  base::check(::sched_getparam(id, &parameters), "ask for the priority");
  const std::string name = base::read_file("/proc/" + std::to_string(id) + "/comm");
  return {id,
          name.substr(0, name.find('\n')),
          affinity_of(id),
          base::check(::sched_getscheduler(id), "ask for the policy"),
          parameters.sched_priority};
}

std::string policy_name(int policy) {
  const std::string flag = (policy & SCHED_RESET_ON_FORK) != 0 ? " reset-on-fork" : "";
  switch (policy & ~SCHED_RESET_ON_FORK) {
    case SCHED_RR:
      return "SCHED_RR" + flag;
    case SCHED_FIFO:
      return "SCHED_FIFO" + flag;
    default:
      return "SCHED_OTHER" + flag;
  }
}

}  // namespace

std::string to_string(const Thread& thread) {
  return std::to_string(thread.id) + " " + thread.name + " on " + base::to_string(thread.cpus) +
         ", " + policy_name(thread.policy) + " " + std::to_string(thread.priority);
}

std::vector<Thread> threads_of(pid_t pid) {
  std::vector<pid_t> numbers;
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    numbers.push_back(std::atoi(entry.path().filename().c_str()));
  }
  std::sort(numbers.begin(), numbers.end());
  std::vector<Thread> threads;
  threads.reserve(numbers.size());
  for (const pid_t number : numbers) {
    threads.push_back(look_at(number));
  }
  return threads;
}

std::string whereabouts_of(pid_t pid) {
  std::string all;
  const auto add = [&](const std::string& path) {
    std::ifstream file(path);
    all.append(std::istreambuf_iterator<char>(file), {});
  };
  for (const auto& entry :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    for (const char* name : {"/stat", "/schedstat", "/stack"}) {
      add(entry.path().string() + name);
    }
  }
  return all;
}

std::vector<Thread> kernel_threads_of(const std::string& ending) {
  std::vector<Thread> found;
  for (const pid_t pid : children_of(2)) {
    Thread thread = look_at(pid);
    if (thread.name.ends_with(ending)) {
      found.push_back(std::move(thread));
    }
  }
  return found;
}

}  // namespace vmlaunch::tests
