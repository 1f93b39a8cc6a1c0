#include "launcher/isolation/report.hpp"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "base/text.hpp"

namespace vmlaunch::launcher::isolation {

namespace {

using nlohmann::json;

constexpr std::size_t kShown = 8;  // of each kind; programs get all

/// What a counter has grown by; one that begins anew, as a number that came again, as it stands.
std::uint64_t grown(std::uint64_t before, std::uint64_t after) {
  return after >= before ? after - before : after;
}

ThreadTime grown(const Counters& before, pid_t thread, const ThreadTime& after) {
  const auto found = before.threads.find(thread);
  const bool is_same = found != before.threads.end() && found->second.started == after.started;
  const ThreadTime old = is_same ? found->second : ThreadTime();
  ThreadTime time = after;
  time.ran_ns = grown(old.ran_ns, after.ran_ns);
  time.waited_ns = grown(old.waited_ns, after.waited_ns);
  time.turns = grown(old.turns, after.turns);
  time.involuntary = grown(old.involuntary, after.involuntary);
  return time;
}

std::string number(double value, int decimals) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(decimals) << value;
  return text.str();
}

/// "1.2 ms", "34 us"
std::string duration(std::uint64_t nanoseconds) {
  const auto value = static_cast<double>(nanoseconds);
  if (nanoseconds >= 10'000'000'000) {
    return number(value / 1e9, 0) + " s";
  }
  if (nanoseconds >= 1'000'000'000) {
    return number(value / 1e9, 2) + " s";
  }
  return nanoseconds >= 1'000'000 ? number(value / 1e6, 1) + " ms" : number(value / 1e3, 0) + " us";
}

std::string share(std::uint64_t nanoseconds, std::chrono::nanoseconds time) {
  const double part = static_cast<double>(nanoseconds) / static_cast<double>(time.count());
  return number(100 * part, 2) + " %";
}

std::string name_of(const Runner& runner) {
  const std::string name = base::printable(runner.time.name);
  return runner.time.is_kernel ? "[" + name + "]"
                               : name + " (" + std::to_string(runner.time.process) +
                                     (runner.time.process == runner.thread
                                          ? ""
                                          : ", thread " + std::to_string(runner.thread)) +
                                     ")";
}

/// How long a thread that could run waited until it did.
std::string each(const ThreadTime& time) {
  return duration(time.turns == 0 ? time.waited_ns : time.waited_ns / time.turns) +
         " each on average";
}

void add_guests(std::string& text, const Report& report, const CpuReport& cpu) {
  for (const Runner& guest : cpu.guests) {
    text += "  " + name_of(guest) + " ran " + share(guest.time.ran_ns, report.time) +
            " of the time, was interrupted by a task " + std::to_string(guest.time.involuntary) +
            " times, and waited for the CPU " + duration(guest.time.waited_ns) + " in " +
            std::to_string(guest.time.turns) + " turns, " + each(guest.time) + "\n";
  }
}

void add_others(std::string& text, const Report& report, const CpuReport& cpu) {
  if (cpu.others.empty()) {
    text += "  no other task ran\n";
  }
  for (std::size_t i = 0; i < cpu.others.size() && i < kShown; ++i) {
    const ThreadTime& time = cpu.others[i].time;
    text += "  " + name_of(cpu.others[i]) + " ran " + share(time.ran_ns, report.time) + ", " +
            duration(time.ran_ns) + " in " + std::to_string(time.turns) + " turns" +
            (cpu.others[i].has_come ? ", a part of it elsewhere" : "") + "\n";
  }
  if (cpu.others.size() > kShown) {
    text += "  and " + std::to_string(cpu.others.size() - kShown) + " more tasks\n";
  }
}

/// What no thread that is left accounts for.
void add_time(std::string& text, const Report& report, const CpuReport& cpu) {
  constexpr std::uint64_t kMillion = 1'000'000;
  text += "  busy " + share(cpu.time.busy_ms * kMillion, report.time) + " of the time";
  if (cpu.rest_ms != 0) {
    text += "; " + share(cpu.rest_ms * kMillion, report.time) +
            " with interrupts, and tasks that ended or moved on";
  }
  text += "\n";
  if (cpu.time.stolen_ms != 0) {
    text += "  a hypervisor above this host took " + std::to_string(cpu.time.stolen_ms) + " ms\n";
  }
  if (cpu.time.too_hot != 0) {
    text += "  too hot, and slowed down, " + std::to_string(cpu.time.too_hot) + " times\n";
  }
}

void add_interrupts(std::string& text, const CpuReport& cpu) {
  std::uint64_t all = 0;
  for (const auto& [name, times] : cpu.interrupts) {
    all += times;
  }
  text += "  " + std::to_string(all) + " interrupts";
  for (std::size_t i = 0; i < cpu.interrupts.size() && i < kShown; ++i) {
    text += (i == 0 ? ": " : ", ") + std::to_string(cpu.interrupts[i].second) + " " +
            base::printable(cpu.interrupts[i].first);
  }
  text += "\n";
}

void add_histogram(std::string& text, const std::string& title, const Histogram& histogram) {
  constexpr std::uint64_t kWidth = 40;
  const std::uint64_t most = *std::max_element(histogram.counts.begin(), histogram.counts.end());
  text += "  " + title + ": the longest " + duration(histogram.longest_ns) + "\n";
  for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
    const std::uint64_t times = histogram.counts[i];
    if (times != 0) {
      std::array<char, 32> range{};
      static_cast<void>(std::snprintf(
          range.data(), range.size(), "%8llu us  ", static_cast<unsigned long long>(1ULL << i)));
      text += "    <" + std::string(range.data()) +
              std::string(std::max<std::uint64_t>(1, times * kWidth / most), '#') + " " +
              std::to_string(times) + "\n";
    }
  }
}

json to_json(const Histogram& histogram) {
  return {{"longest_ns", histogram.longest_ns}, {"below_power_of_two_us", histogram.counts}};
}

json to_json(const Runner& runner) {
  return {{"thread", runner.thread},
          {"process", runner.time.process},
          {"name", runner.time.name},
          {"kernel", runner.time.is_kernel},
          {"ran_ns", runner.time.ran_ns},
          {"waited_ns", runner.time.waited_ns},
          {"turns", runner.time.turns},
          {"came_from_another_cpu", runner.has_come},
          {"involuntary_switches", runner.time.involuntary}};
}

json to_json(const std::vector<Runner>& runners) {
  json all = json::array();
  for (const Runner& runner : runners) {
    all.push_back(to_json(runner));
  }
  return all;
}

}  // namespace

Report compare(const Counters& before,
               const Counters& after,
               const base::CpuSet& cpus,
               const std::vector<pid_t>& vcpus) {
  Report report;
  report.time = after.taken - before.taken;
  for (const unsigned cpu : cpus) {
    CpuReport one;
    one.cpu = cpu;
    std::uint64_t accounted = 0;
    for (const auto& [thread, now] : after.threads) {
      const ThreadTime time = grown(before, thread, now);
      const bool is_guest = std::find(vcpus.begin(), vcpus.end(), thread) != vcpus.end();
      if (now.cpu == cpu && (is_guest || time.turns != 0 || time.ran_ns != 0)) {
        const auto old = before.threads.find(thread);
        const bool has_come = old != before.threads.end() && old->second.cpu != cpu;
        (is_guest ? one.guests : one.others).push_back({thread, time, has_come});
        accounted += time.ran_ns;
      }
    }
    std::sort(one.others.begin(), one.others.end(), [](const Runner& a, const Runner& b) {
      return a.time.ran_ns > b.time.ran_ns;
    });
    for (const auto& [name, by_cpu] : after.interrupts) {
      const auto old = before.interrupts.find(name);
      const auto count = [&](const std::map<unsigned, std::uint64_t>& all) {
        const auto found = all.find(cpu);
        return found == all.end() ? 0 : found->second;
      };
      const std::uint64_t times =
          grown(old == before.interrupts.end() ? 0 : count(old->second), count(by_cpu));
      if (times != 0) {
        one.interrupts.emplace_back(name, times);
      }
    }
    std::stable_sort(one.interrupts.begin(),
                     one.interrupts.end(),
                     [](const auto& a, const auto& b) { return a.second > b.second; });
    const auto old = before.times.find(cpu);
    const auto now = after.times.find(cpu);
    if (old != before.times.end() && now != after.times.end()) {
      one.time = {grown(old->second.busy_ms, now->second.busy_ms),
                  grown(old->second.stolen_ms, now->second.stolen_ms),
                  grown(old->second.too_hot, now->second.too_hot)};
    }
    accounted /= 1'000'000;
    one.rest_ms = one.time.busy_ms > accounted ? one.time.busy_ms - accounted : 0;
    report.cpus.push_back(std::move(one));
  }
  for (const auto& [group, time] : after.throttled_us) {
    const auto old = before.throttled_us.find(group);
    const std::uint64_t more = old == before.throttled_us.end() ? 0 : grown(old->second, time);
    if (more != 0) {
      report.throttled_us.emplace_back(group, more);
    }
  }
  return report;
}

std::string to_text(const Report& report) {
  std::string text;
  for (const CpuReport& cpu : report.cpus) {
    text += (text.empty() ? "CPU " : "\nCPU ") + std::to_string(cpu.cpu) + ", for " +
            duration(static_cast<std::uint64_t>(report.time.count())) + "\n";
    add_time(text, report, cpu);
    add_guests(text, report, cpu);
    add_others(text, report, cpu);
    add_interrupts(text, cpu);
    if (cpu.was_closed) {
      text += "  no thread of ours can run there: a partition, or a cpuset, keeps it away\n";
    }
    if (cpu.probe) {
      add_histogram(text, "gaps in a loop that looks at the clock", cpu.probe->gaps);
      add_histogram(text, "from a timer's end to the thread that waits for it", cpu.probe->wakings);
    }
  }
  for (const auto& [group, time] : report.throttled_us) {
    text += "\nThe quota of the cgroup " + base::printable(group) + " stopped the vCPUs for " +
            duration(time * 1000) + "\n";
  }
  return text;
}

json to_json(const Report& report) {
  json cpus = json::array();
  for (const CpuReport& cpu : report.cpus) {
    json interrupts = json::object();
    for (const auto& [name, times] : cpu.interrupts) {
      interrupts[name] = times;
    }
    cpus.push_back({{"cpu", cpu.cpu},
                    {"guests", to_json(cpu.guests)},
                    {"others", to_json(cpu.others)},
                    {"interrupts", interrupts},
                    {"busy_ms", cpu.time.busy_ms},
                    {"unaccounted_ms", cpu.rest_ms},
                    {"stolen_ms", cpu.time.stolen_ms},
                    {"times_too_hot", cpu.time.too_hot},
                    {"gaps", cpu.probe ? to_json(cpu.probe->gaps) : json(nullptr)},
                    {"wakings", cpu.probe ? to_json(cpu.probe->wakings) : json(nullptr)}});
  }
  json throttled = json::object();
  for (const auto& [group, time] : report.throttled_us) {
    throttled[group] = time;
  }
  return {
      {"nanoseconds", report.time.count()}, {"cpus", cpus}, {"throttled_us_by_cgroup", throttled}};
}

}  // namespace vmlaunch::launcher::isolation
