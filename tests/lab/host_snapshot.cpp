#include "tests/lab/host_snapshot.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <vector>

namespace vmlaunch::tests {

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> entries(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string text_of(const fs::path& file) {
  std::ifstream stream(file);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  while (!text.empty() && (text.back() == '\n' || text.back() == '\0')) {
    text.pop_back();
  }
  return text;
}

bool starts_with_digit(const fs::path& path) {
  const char first = path.filename().string().front();
  return first >= '0' && first <= '9';
}

/// Collects the parts of a snapshot.
class Survey {
 public:
  HostSnapshot all() {
    pci();
    usb();
    memory();
    groups();
    interrupts();
    processors();
    mounts();
    links();
    processes();
    units();
    nodes();
    files();
    return std::move(found_);
  }

 private:
  /// An attribute that exists; its path is its name.
  void attribute(const fs::path& file) {
    std::error_code error;
    if (fs::is_regular_file(file, error)) {
      found_[file.string()] = text_of(file);
    }
  }

  /// The same name may come several times.
  void add(const std::string& name, const std::string& value) {
    std::string& all = found_[name];
    all += all.empty() ? value : " | " + value;
  }

  void owner(const fs::path& path, const std::string& otherwise = "") {
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0) {
      std::ostringstream text;
      text << status.st_uid << ':' << status.st_gid << ' ' << std::oct << status.st_mode;
      found_[path.string()] = text.str();
    } else if (!otherwise.empty()) {
      found_[path.string()] = otherwise;
    }
  }

  /// By port, since numbers change with each plugging in.
  void usb() {
    for (const fs::path& device : entries("/sys/bus/usb/devices")) {
      std::error_code error;
      found_[device / "driver"] = fs::read_symlink(device / "driver", error).filename();
      attribute(device / "bConfigurationValue");
    }
  }

  void pci() {
    for (const fs::path& device : entries("/sys/bus/pci/devices")) {
      std::error_code error;
      found_[device / "driver"] = fs::read_symlink(device / "driver", error).filename();
      for (const auto* name :
           {"driver_override", "reset_method", "power/control", "d3cold_allowed"}) {
        attribute(device / name);
      }
    }
    attribute("/sys/bus/pci/drivers_autoprobe");
    for (const fs::path& group : entries("/sys/kernel/iommu_groups")) {
      attribute(group / "type");
    }
    // A GPU's way from the console to a guest goes through these.
    for (const fs::path& console : entries("/sys/class/vtconsole")) {
      attribute(console / "bind");
    }
    for (const fs::path& device : entries("/sys/bus/platform/devices")) {
      if (device.filename().string().find("-framebuffer.") != std::string::npos) {
        std::error_code error;
        found_[device / "driver"] = fs::read_symlink(device / "driver", error).filename();
      }
    }
  }

  void memory() {
    for (const fs::path& node : entries("/sys/devices/system/node")) {
      for (const fs::path& size : entries(node / "hugepages")) {
        attribute(size / "nr_hugepages");
        attribute(size / "surplus_hugepages");
      }
    }
    for (const fs::path& size : entries("/sys/kernel/mm/hugepages")) {
      attribute(size / "nr_overcommit_hugepages");
    }
    for (const auto* name : {"/sys/kernel/mm/transparent_hugepage/enabled",
                             "/sys/kernel/mm/transparent_hugepage/defrag",
                             "/sys/kernel/mm/ksm/run"}) {
      attribute(name);
    }
  }

  void groups() {
    group("/sys/fs/cgroup");
    std::error_code error;
    // A folder may vanish under the walk; then the rest is found in the next snapshot.
    for (fs::recursive_directory_iterator entry("/sys/fs/cgroup", error), end; entry != end;
         entry.increment(error)) {
      if (entry->is_directory(error)) {
        group(entry->path());
      }
    }
  }

  void group(const fs::path& folder) {
    found_[folder.string()] = "cgroup";
    for (const auto* name : {"cgroup.subtree_control",
                             "cgroup.type",
                             "cgroup.freeze",
                             "cpu.max",
                             "cpu.weight",
                             "cpuset.cpus",
                             "cpuset.cpus.effective",
                             "cpuset.cpus.exclusive",
                             "cpuset.cpus.partition",
                             "cpuset.mems",
                             "cpuset.mems.effective"}) {
      attribute(folder / name);
    }
  }

  /// By who asked for the interrupt, since a driver that comes back may be given another number.
  void interrupts() {
    attribute("/proc/irq/default_smp_affinity");
    for (const fs::path& interrupt : entries("/proc/irq")) {
      for (const fs::path& action : entries(interrupt)) {
        std::error_code error;
        if (fs::is_directory(action, error)) {
          add("interrupt " + action.filename().string(), text_of(interrupt / "smp_affinity_list"));
        }
      }
    }
  }

  void processors() {
    for (const fs::path& cpu : entries("/sys/devices/system/cpu")) {
      attribute(cpu / "online");
      attribute(cpu / "cpufreq/scaling_governor");
      attribute(cpu / "cpufreq/energy_performance_preference");
    }
    for (const auto* name : {"/sys/devices/virtual/workqueue/cpumask",
                             "/sys/devices/virtual/workqueue/writeback/cpumask",
                             "/proc/sys/kernel/numa_balancing",
                             "/proc/sys/kernel/sched_rt_runtime_us",
                             "/proc/sys/kernel/timer_migration",
                             "/proc/sys/kernel/watchdog_cpumask",
                             "/proc/sys/vm/stat_interval"}) {
      attribute(name);
    }
    for (const fs::path& server : entries("/sys/kernel/debug/sched/fair_server")) {
      attribute(server / "runtime");
    }
    for (const fs::path& parameter : entries("/sys/module/kvm/parameters")) {
      attribute(parameter);
    }
  }

  void mounts() {
    std::ifstream lines("/proc/self/mounts");
    std::string source;
    std::string point;
    std::string rest;
    while (lines >> source >> point && std::getline(lines, rest)) {
      add("mount " + point, source + rest);
    }
  }

  void links() {
    for (const fs::path& link : entries("/sys/class/net")) {
      for (const auto* name : {"address", "flags", "mtu"}) {
        attribute(link / name);
      }
      std::error_code error;
      found_[link / "master"] = fs::read_symlink(link / "master", error).filename();
    }
    attribute("/proc/sys/net/ipv4/ip_forward");
    attribute("/proc/sys/net/ipv6/conf/all/forwarding");
  }

  /// How many of each command line; a kernel thread has none.
  void processes() {
    std::map<std::string, int> counts;
    for (const fs::path& process : entries("/proc")) {
      if (starts_with_digit(process)) {
        std::string line = text_of(process / "cmdline");
        std::replace(line.begin(), line.end(), '\0', ' ');
        if (!line.empty()) {
          ++counts[line];
        }
      }
    }
    for (const auto& [line, count] : counts) {
      found_["process " + line] = std::to_string(count);
    }
  }

  /// Services that run, where there is systemd.
  void units() {
    if (!fs::exists("/run/systemd/system")) {
      return;
    }
    const std::unique_ptr<FILE, int (*)(FILE*)> list(
        ::popen("systemctl list-units --plain --no-legend --type=service --state=active,failed",
                "r"),
        ::pclose);
    std::array<char, 1024> line{};
    while (list && std::fgets(line.data(), line.size(), list.get()) != nullptr) {
      std::istringstream words(line.data());
      std::string name;
      std::string loaded;
      std::string active;
      words >> name >> loaded >> active;
      found_["unit " + name] = active;
    }
  }

  void nodes() {
    // It comes with the module, like this.
    owner("/dev/vfio/vfio", "0:0 20666");
    for (const fs::path& node : entries("/dev/vfio")) {
      owner(node);
    }
    owner("/dev/kvm");
  }

  void files() {
    for (const auto* folder : {"/run/vmlaunch", "/var/lib/vmlaunch"}) {
      std::error_code error;
      for (fs::recursive_directory_iterator entry(folder, error), end; entry != end;
           entry.increment(error)) {
        if (!entry->is_directory(error)) {
          owner(entry->path());
        }
      }
    }
  }

  HostSnapshot found_;
};

}  // namespace

HostSnapshot host_snapshot() {
  return Survey().all();
}

std::string difference(const HostSnapshot& before, const HostSnapshot& after) {
  std::ostringstream text;
  const auto missing = [&text](const HostSnapshot& from, const HostSnapshot& in, char sign) {
    for (const auto& [name, value] : from) {
      const auto found = in.find(name);
      if (found == in.end() || found->second != value) {
        text << sign << ' ' << name << " = " << value << '\n';
      }
    }
  };
  missing(before, after, '-');
  missing(after, before, '+');
  return text.str();
}

std::string lasting_difference(const HostSnapshot& before, Seconds limit) {
  std::string changed;
  static_cast<void>(eventually(
      [&] {
        changed = difference(before, host_snapshot());
        return changed.empty();
      },
      limit));
  return changed;
}

}  // namespace vmlaunch::tests
