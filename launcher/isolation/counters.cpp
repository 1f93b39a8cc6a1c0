#include "launcher/isolation/counters.hpp"

#include <unistd.h>

#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "base/process_stat.hpp"
#include "base/text.hpp"

namespace vmlaunch::launcher::isolation {

namespace {

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) {
    words.push_back(word);
  }
  return words;
}

std::uint64_t number_in(const std::vector<std::string>& words, std::size_t index) {
  return index < words.size() ? base::parse_number<std::uint64_t>(words[index]).value_or(0) : 0;
}

/// "nonvoluntary_ctxt_switches:\t12" of a status.
std::uint64_t involuntary_of(const base::Tree& tree, const std::string& folder) {
  constexpr const char* kName = "nonvoluntary_ctxt_switches:";
  const std::string status = tree.read(folder + "/status").value_or("");
  const std::size_t begin = status.find(kName);
  return begin == std::string::npos ? 0 : number_in(words_of(status.substr(begin)), 1);
}

void count_thread(const base::Tree& tree,
                  const std::string& process,
                  const std::string& thread,
                  Counters& counters) {
  const std::string path = process + "/task/" + thread;
  const auto stat = base::stat_of(tree, path);
  const auto number = base::parse_number<unsigned>(thread);
  if (!stat || !number) {
    return;
  }
  const std::vector<std::string> times =
      words_of(tree.read("/proc/" + path + "/schedstat").value_or(""));
  ThreadTime time;
  time.name = stat->name;
  time.process = static_cast<pid_t>(base::parse_number<unsigned>(process).value_or(0));
  time.started = stat->started;
  time.is_kernel = stat->is_kernel_thread();
  time.cpu = stat->cpu;
  time.ran_ns = number_in(times, 0);
  time.waited_ns = number_in(times, 1);
  time.turns = number_in(times, 2);
  time.involuntary = involuntary_of(tree, "/proc/" + path);
  counters.threads.emplace(static_cast<pid_t>(*number), time);
}

void count_threads(const base::Tree& tree, Counters& counters) {
  for (const std::string& process : tree.list("/proc")) {
    if (base::parse_number<unsigned>(process)) {
      for (const std::string& thread : tree.list("/proc/" + process + "/task")) {
        count_thread(tree, process, thread, counters);
      }
    }
  }
}

/// A table of /proc with a heading of CPUs, and a line for each source: its name, a number for each
/// CPU, and words.
void count_table(const base::Tree& tree,
                 const std::string& path,
                 const std::string& prefix,
                 const base::CpuSet& cpus,
                 Counters& counters) {
  const std::vector<std::string> lines = base::split(tree.read(path).value_or(""), '\n');
  const std::vector<std::string> heading = words_of(lines.front());
  for (std::size_t i = 1; i < lines.size(); ++i) {
    std::vector<std::string> words = words_of(lines[i]);
    if (words.size() <= heading.size() || !words[0].ends_with(':')) {
      continue;  // those that count for all CPUs together
    }
    const std::string source = words[0].substr(0, words[0].size() - 1);
    const bool is_number = base::parse_number<unsigned>(source).has_value();
    const std::vector<std::string> rest(words.begin() + static_cast<long>(heading.size()) + 1,
                                        words.end());
    // Behind the chip's and the line's names the driver's is the last.
    const std::string name = rest.empty() ? prefix + source
                             : is_number  ? source + " " + rest.back()
                                          : base::join(rest, " ");
    for (std::size_t column = 0; column < heading.size(); ++column) {
      const auto cpu = base::parse_number<unsigned>(heading[column].substr(3));
      if (cpu && cpus.contains(*cpu)) {
        counters.interrupts[name][*cpu] += number_in(words, column + 1);
      }
    }
  }
}

/// "cpu2 user nice system idle iowait irq softirq steal guest …", in clock ticks. Guests' time is
/// in user's too.
void count_times(const base::Tree& tree, const base::CpuSet& cpus, Counters& counters) {
  constexpr std::size_t kIdle = 4;
  constexpr std::size_t kWaiting = 5;
  constexpr std::size_t kSteal = 8;
  const auto ticks = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  for (const std::string& line : base::split(tree.read("/proc/stat").value_or(""), '\n')) {
    const std::vector<std::string> words = words_of(line);
    if (words.size() <= kSteal || !words[0].starts_with("cpu") || words[0].size() == 3) {
      continue;
    }
    const auto cpu = base::parse_number<unsigned>(words[0].substr(3));
    if (!cpu || !cpus.contains(*cpu)) {
      continue;
    }
    std::uint64_t busy = 0;
    for (std::size_t i = 1; i <= kSteal; ++i) {
      busy += i == kIdle || i == kWaiting ? 0 : number_in(words, i);
    }
    CpuTime& time = counters.times[*cpu];
    time.busy_ms = busy * 1000 / ticks;
    time.stolen_ms = number_in(words, kSteal) * 1000 / ticks;
    const std::string hot = tree.read("/sys/devices/system/cpu/cpu" + std::to_string(*cpu) +
                                      "/thermal_throttle/core_throttle_count")
                                .value_or("0");
    time.too_hot = base::parse_number<std::uint64_t>(hot).value_or(0);
  }
}

/// "throttled_usec 12" in the cpu.stat of a thread's cgroup, and of those above.
void count_throttled(const base::Tree& tree, pid_t thread, Counters& counters) {
  constexpr std::string_view kName = "\nthrottled_usec ";
  const std::string text = tree.read("/proc/" + std::to_string(thread) + "/cgroup").value_or("");
  const std::size_t begin = text.find("0::/");
  if (begin == std::string::npos) {
    return;
  }
  std::string folder = text.substr(begin + 3, text.find('\n', begin) - begin - 3);
  for (; folder.size() > 1; folder.resize(folder.rfind('/'))) {
    const std::string stat = tree.read("/sys/fs/cgroup" + folder + "/cpu.stat").value_or("");
    if (const std::size_t found = stat.find(kName); found != std::string::npos) {
      counters.throttled_us[folder] = number_in(words_of(stat.substr(found)), 1);
    }
  }
}

}  // namespace

Counters count(const base::Tree& tree, const base::CpuSet& cpus, const std::vector<pid_t>& vcpus) {
  Counters counters;
  counters.taken = std::chrono::steady_clock::now();
  count_threads(tree, counters);
  count_table(tree, "/proc/interrupts", "", cpus, counters);
  count_table(tree, "/proc/softirqs", "softirq ", cpus, counters);
  count_times(tree, cpus, counters);
  for (const pid_t vcpu : vcpus) {
    count_throttled(tree, vcpu, counters);
  }
  return counters;
}

}  // namespace vmlaunch::launcher::isolation
