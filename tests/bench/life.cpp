// The life of a VM without devices, beside bare QEMU with the same arguments, a script of bash and
// socat, and libvirt where it is installed: start, stop, death, memory, idleness, many at once. The
// ways take turns, each begins when the machine is quiet, and what counts is the median of the
// rounds' ratios.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/affinity.hpp"
#include "base/file.hpp"
#include "base/process.hpp"
#include "base/text.hpp"
#include "tests/bench/libvirt.hpp"
#include "tests/bench/rounds.hpp"
#include "tests/bench/table.hpp"
#include "tests/support/program.hpp"

namespace {

using namespace vmlaunch;
using namespace vmlaunch::bench;
using std::chrono::steady_clock;
using tests::Seconds;

constexpr std::chrono::seconds kEnd{30};

[[noreturn]] void give_up(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

/// Idle and all time of the machine so far, in ticks.
std::pair<double, double> machine_times() {
  std::ifstream file("/proc/stat");
  std::string word;
  file >> word;
  double all = 0;
  double idle = 0;
  for (int i = 0; i < 8; ++i) {
    double ticks = 0;
    file >> ticks;
    all += ticks;
    idle += i == 3 || i == 4 ? ticks : 0;
  }
  return {idle, all};
}

/// Until nine tenths of the machine have done nothing for a quarter of a second.
void await_quiet() {
  const auto until = steady_clock::now() + std::chrono::seconds(30);
  for (;;) {
    const auto [idle, all] = machine_times();
    const timespec pause{0, 250'000'000};
    ::nanosleep(&pause, nullptr);
    const auto [idle_now, all_now] = machine_times();
    if ((idle_now - idle) > 0.9 * (all_now - all)) {
      return;
    }
    if (steady_clock::now() > until) {
      std::fprintf(stderr, "the machine is not quiet: what follows says little\n");
      return;
    }
  }
}

/// A guest that does nothing: two vCPUs on the machine's last CPU, or in its place a program that
/// says that it has one, and shuts down.
Json config_of(const std::string& binary = "") {
  const base::CpuSet own = base::affinity_of(0);
  const std::vector<unsigned> pin(binary.empty() ? 2 : 1, *own.rbegin());
  Json config = {{"name", "bench"},
                 {"accel", "tcg"},
                 {"cpu",
                  {{"cores", pin.size()},
                   {"pin", pin},
                   {"emulator", base::to_string(own)},
                   {"realtime", false}}},
                 {"memory", {{"size", "256M"}}},
                 {"stop", {{"timeout", "0s"}}}};
  if (!binary.empty()) {
    config["qemu"] = {{"binary", binary}, {"extra_args", {"shutdown"}}};
  }
  return config;
}

/// What people write: the monitor at a path, looked for every 10 ms, and a socat for each word.
std::string script_of(const Json& plan, const std::string& folder) {
  std::string line = base::shell_quote(plan["qemu"]["binary"].get<std::string>());
  for (const std::string word : plan["qemu"]["arguments"]) {
    line += " " + base::shell_quote(word == "socket,id=qmp,fd=3"
                                        ? "socket,id=qmp,path=" + folder + "/qmp,server=on,wait=off"
                                        : word);
  }
  const std::string ask = " | socat -t 5 - UNIX-CONNECT:" + folder + "/qmp > /dev/null\n";
  return "#!/bin/bash\n" + line + " &\npid=$!\nwhile [ ! -S " + folder +
         "/qmp ]; do sleep 0.01; done\n"
         "printf '%s\\n' '{\"execute\":\"qmp_capabilities\"}' '{\"execute\":\"cont\"}'" +
         ask +
         "echo running\nread -r\nprintf '%s\\n' '{\"execute\":\"qmp_capabilities\"}' "
         "'{\"execute\":\"quit\"}'" +
         ask + "wait $pid\nrm -f " + folder + "/qmp\n";
}

Life life_of(const tests::Launch& launch, const std::string& running, bool by_word) {
  const auto begin = steady_clock::now();
  tests::Program program(launch);
  if (!program.says(running)) {
    give_up(program.output());
  }
  Life life{milliseconds_since(begin), 0};
  const auto end = steady_clock::now();
  if (by_word) {
    program.type("\n");
  } else {
    program.signal(SIGINT);
  }
  static_cast<void>(program.wait());
  life.stop = milliseconds_since(end);
  return life;
}

/// The same guest for libvirt.
std::string domain_of(const std::string& name) {
  const std::string cpu = std::to_string(*base::affinity_of(0).rbegin());
  return "<domain type='qemu'><name>" + name +
         "</name><memory unit='MiB'>256</memory><vcpu>2</vcpu><cputune><vcpupin vcpu='0' cpuset='" +
         cpu + "'/><vcpupin vcpu='1' cpuset='" + cpu +
         "'/></cputune><os><type arch='x86_64' machine='q35'>hvm</type></os><devices><emulator>"
         "/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/><memballoon "
         "model='none'/></devices></domain>\n";
}

/// Our processes of a running VM.
std::vector<pid_t> processes_of(const tests::Program& program) {
  std::vector<pid_t> all = {program.pid()};
  for (const pid_t child : tests::children_of(program.pid())) {
    all.push_back(child);
  }
  return all;
}

class Bench {
 public:
  explicit Bench(int rounds) : rounds_(rounds) {
    ours_.arguments = {VMLAUNCH_PROGRAM, folder_.write("vm.json", config_of().dump())};
    open_ = ours_;
    open_.arguments.insert(open_.arguments.begin() + 1, {"run", "--sandbox=off"});
    Json probe = config_of(PROBE_PROGRAM);
    probe["name"] = "bench-probe";
    probe_.arguments = {VMLAUNCH_PROGRAM, folder_.write("probe.json", probe.dump())};
    plan_ = plan_of(ours_.arguments.back());
    script_.arguments = {"/bin/bash",
                         folder_.write("start", script_of(plan_, folder_.path()), 0755)};
  }

  std::vector<Row> run() {
    lives();
    death();
    processor_time();
    if (Libvirt::can_run()) {
      beside_libvirt();
    } else {
      std::fprintf(stderr, "without root or libvirt there is nothing said beside virsh\n");
    }
    programs();
    memory_and_idleness();
    many();
    return rows_;
  }

 private:
  void add(const std::string& name,
           const std::string& unit,
           double value,
           double limit,
           const std::string& basis) {
    rows_.push_back({name, unit, value, limit, basis});
  }

  static std::string milliseconds(const char* who, std::vector<double> values) {
    std::array<char, 64> text{};
    static_cast<void>(
        std::snprintf(text.data(), text.size(), "%s %.1f ms", who, median(std::move(values))));
    return text.data();
  }

  static double ratio(const std::vector<double>& ours, const std::vector<double>& theirs) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      ratios.push_back(ours[i] / theirs[i]);
    }
    return median(ratios);
  }

  void lives() {
    struct Way {
      std::function<Life()> live;
      std::vector<double> start;
      std::vector<double> stop;
    };
    std::vector<Way> ways = {{[&] { return bare_life(plan_); }, {}, {}},
                             {[&] { return life_of(open_, "] running", false); }, {}, {}},
                             {[&] { return life_of(ours_, "] running", false); }, {}, {}},
                             {[&] { return life_of(script_, "running", true); }, {}, {}}};
    for (int round = -1; round < rounds_; ++round) {  // the first is for the caches
      for (Way& way : ways) {
        await_quiet();
        const Life life = way.live();
        if (round >= 0) {
          way.start.push_back(life.start);
          way.stop.push_back(life.stop);
        }
      }
    }
    const Way& bare = ways[0];
    const Way& open = ways[1];
    const Way& ours = ways[2];
    const Way& script = ways[3];
    start_ms_ = ours.start;
    stop_ms_ = ours.stop;
    add("start to running, pinned, unconfined, beside bare QEMU",
        "x",
        ratio(open.start, bare.start),
        1.10,
        milliseconds("bare", bare.start) + ", " + milliseconds("vmlaunch", open.start));
    add("start to running, pinned, confined, beside bare QEMU",
        "x",
        ratio(ours.start, bare.start),
        1.25,
        milliseconds("bare", bare.start) + ", " + milliseconds("vmlaunch", ours.start));
    add("the same beside a script of bash and socat",
        "x",
        ratio(ours.start, script.start),
        1.05,
        milliseconds("script", script.start));
    std::vector<double> more;
    for (std::size_t i = 0; i < ours.stop.size(); ++i) {
      more.push_back(ours.stop[i] - bare.stop[i]);
    }
    add("stop to everything reaped, more than bare QEMU's quit",
        "ms",
        median(more),
        5,
        milliseconds("bare", bare.stop) + ", " + milliseconds("vmlaunch", ours.stop));
  }

  void death() {
    std::vector<double> times;
    for (int round = 0; round < rounds_; ++round) {
      await_quiet();
      tests::Program program(ours_);
      if (!program.says("] running")) {
        give_up(program.output());
      }
      const auto qemu = static_cast<pid_t>(program.number_after("paused: pid "));
      const auto begin = steady_clock::now();
      ::kill(qemu, SIGKILL);
      static_cast<void>(program.wait());
      times.push_back(milliseconds_since(begin));
    }
    add("QEMU killed to restored and ended",
        "ms",
        median(times),
        10,
        milliseconds("vmlaunch", times));
  }

  /// With a small program in QEMU's place, whose own time is taken off.
  void processor_time() {
    std::vector<double> ours;
    std::vector<double> alone;
    for (int round = 0; round < rounds_; ++round) {
      double before = childrens_time();
      tests::Program program(probe_);
      static_cast<void>(program.wait());
      ours.push_back(childrens_time() - before);
      before = childrens_time();
      const base::Child child = base::fork_child("the probe");
      if (child.pid == 0) {
        ::execl(PROBE_PROGRAM, "probe", "exit-now", nullptr);
        ::_exit(127);
      }
      static_cast<void>(base::reap_within(child.pidfd.get(), kEnd));
      alone.push_back(childrens_time() - before);
    }
    life_ms_ = median(ours) - median(alone);
    add("processor time of a whole life, the child before QEMU included",
        "ms",
        life_ms_,
        8 + 5,
        milliseconds("with a program in QEMU's place", ours) + ", " +
            milliseconds("that alone", alone));
  }

  /// Its daemon's time for nothing is measured too, and taken off.
  void beside_libvirt() {
    const std::string name = "bench-libvirt";
    Libvirt libvirt(name, domain_of(name));
    std::vector<double> start;
    std::vector<double> stop;
    std::vector<double> time;
    for (std::size_t round = 0; round <= start_ms_.size(); ++round) {  // the first is for caches
      await_quiet();
      const double daemons = libvirt.processor_time();
      const double virsh = childrens_time();
      const double create = libvirt.create();
      const double destroy = libvirt.destroy();
      if (round > 0) {
        start.push_back(create);
        stop.push_back(destroy);
        time.push_back(libvirt.processor_time() - daemons + childrens_time() - virsh);
      }
    }
    add("start to running, beside virsh create",
        "x",
        ratio(start_ms_, start),
        0.25,
        milliseconds("virsh", start));
    add("stop to everything reaped, beside virsh destroy",
        "x",
        ratio(stop_ms_, stop),
        0.1,
        milliseconds("virsh", stop));
    add("processor time of a whole life, beside libvirtd's and virsh's",
        "x",
        life_ms_ / median(time),
        0.15,
        milliseconds("libvirt", time));
    libvirt_memory_ = libvirt.memory();
  }

  void programs() {
    const std::string log = folder_.file("execs");
    tests::Launch launch = probe_;
    launch.arguments.insert(
        launch.arguments.begin(),
        {"/usr/bin/strace", "-f", "-qq", "-e", "trace=execve,execveat", "-o", log});
    tests::Program program(launch);
    static_cast<void>(program.wait());
    std::istringstream lines(base::read_file(log));
    int count = -2;  // vmlaunch itself, and QEMU
    for (std::string line; std::getline(lines, line);) {
      count += line.find(" = 0") != std::string::npos ? 1 : 0;
    }
    add("programs started beside QEMU", "", count, 0, "by strace");
  }

  void memory_and_idleness() {
    tests::Program program(ours_);
    if (!program.says("] running")) {
      give_up(program.output());
    }
    ::sleep(65);  // threads and interrupts are looked for a minute long
    const std::vector<pid_t> processes = processes_of(program);
    const auto switches = [&] {
      double sum = 0;
      for (const pid_t pid : processes) {
        const std::string status = "/proc/" + std::to_string(pid) + "/status";
        sum += number_in(status, "voluntary_ctxt_switches:") +
               number_in(status, "nonvoluntary_ctxt_switches:");
      }
      return sum;
    };
    const auto ran = [&] {
      double sum = 0;
      for (const pid_t pid : processes) {
        sum += std::strtod(base::read_file("/proc/" + std::to_string(pid) + "/schedstat").c_str(),
                           nullptr);
      }
      return sum / 1e6;
    };
    const double switched = switches();
    const double time = ran();
    ::sleep(60);
    add("idle for 60 s: context switches", "", switches() - switched, 0, "of both processes");
    add("idle for 60 s: processor time", "ms", ran() - time, 0, "of both processes");
    double pss = 0;
    double rss = 0;
    for (const pid_t pid : processes) {
      const std::string rollup = "/proc/" + std::to_string(pid) + "/smaps_rollup";
      pss += number_in(rollup, "Pss:") / 1024;
      rss += number_in(rollup, "Rss:") / 1024;
    }
    add("memory of our processes: PSS",
        "MiB",
        pss,
        6,
        std::to_string(processes.size()) + " processes");
    add("memory of our processes: RSS", "MiB", rss, 12, "the same");
    if (libvirt_memory_ > 0) {
      std::array<char, 64> text{};
      static_cast<void>(std::snprintf(
          text.data(), text.size(), "libvirtd and virtlogd %.1f MiB", libvirt_memory_));
      add("memory beside libvirtd's and virtlogd's", "x", pss / libvirt_memory_, 0.25, text.data());
    }
    end_in_a_hurry(program);
  }

  /// With a small program in QEMU's place.
  void many() {
    std::vector<double> each;
    for (const int number : {1, 10, 50}) {
      std::vector<double> costs;
      for (int round = 0; round < std::max(3, rounds_ / number); ++round) {
        await_quiet();
        const double before = childrens_time();
        {
          std::vector<std::unique_ptr<tests::Program>> programs;
          for (int i = 0; i < number; ++i) {
            Json config = config_of(PROBE_PROGRAM);
            config["name"] = "bench-" + std::to_string(i);
            tests::Launch launch;
            launch.arguments = {
                VMLAUNCH_PROGRAM,
                folder_.write("many-" + std::to_string(i) + ".json", config.dump())};
            programs.push_back(std::make_unique<tests::Program>(launch));
          }
          for (const auto& program : programs) {
            static_cast<void>(program->wait());
          }
        }
        costs.push_back((childrens_time() - before) / number);
      }
      each.push_back(median(costs));
    }
    std::array<char, 80> basis{};
    static_cast<void>(std::snprintf(
        basis.data(), basis.size(), "%.1f, %.1f and %.1f ms for each", each[0], each[1], each[2]));
    add("processor time for each of 10 VMs at once, beside one",
        "x",
        each[1] / each[0],
        1.1,
        basis.data());
    add("processor time for each of 50 VMs at once, beside one",
        "x",
        each[2] / each[0],
        1.1,
        basis.data());
  }

  int rounds_;
  tests::Folder folder_ = tests::shared_folder();
  tests::Launch ours_;
  tests::Launch open_;
  tests::Launch probe_;
  tests::Launch script_;
  Json plan_;
  std::vector<double> start_ms_;
  std::vector<double> stop_ms_;
  double life_ms_ = 0;
  double libvirt_memory_ = 0;
  std::vector<Row> rows_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: bench_life ROUNDS RESULTS\n");
    return 2;
  }
  const std::vector<Row> rows = Bench(std::max(1, std::atoi(argv[1]))).run();
  const std::string results = argv[2];
  std::ofstream(results + ".json") << to_json(rows).dump(2) << "\n";
  std::ofstream(results + ".svg") << to_svg(rows);
  std::printf("%s", to_text(rows).c_str());
  return std::all_of(rows.begin(), rows.end(), [](const Row& row) { return row.met(); }) ? 0 : 1;
}
