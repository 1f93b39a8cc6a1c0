#include "tests/support/fake_kernel.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "base/file.hpp"
#include "base/text.hpp"
#include "launcher/survey/bar.hpp"
#include "tests/support/usb_tree.hpp"

namespace vmlaunch::tests {

namespace {

namespace fs = std::filesystem;
using launcher::steps::Stuck;

constexpr const char* kDevices = "/sys/bus/pci/devices/";
constexpr const char* kPlatformDrivers = "/sys/bus/platform/drivers/";
constexpr const char* kUnits = "/units/";

[[noreturn]] void fail() {
  throw std::system_error(EIO, std::generic_category(), "a fault that the test made");
}

/// "0000:01:00.0" of a path below kDevices.
std::string address_of(const std::string& path) {
  const std::string rest = path.substr(std::string(kDevices).size());
  return rest.substr(0, rest.find('/'));
}

constexpr const char* kAllPages = "/sys/kernel/mm/hugepages/hugepages-2048kB";

std::string pages_of(unsigned node) {
  return "/sys/devices/system/node/node" + std::to_string(node) + "/hugepages/hugepages-2048kB";
}

/// A pool as the tree shows it.
struct Pool {
  int total;
  int surplus;
  int free;
};

Pool read_pool(const PciTree& tree, unsigned node) {
  return {pool_of(tree, node, "nr_hugepages"),
          pool_of(tree, node, "surplus_hugepages"),
          pool_of(tree, node, "free_hugepages")};
}

void write_pool(const PciTree& tree, unsigned node, const Pool& pool) {
  tree.write(pages_of(node) + "/nr_hugepages", std::to_string(pool.total) + "\n");
  tree.write(pages_of(node) + "/surplus_hugepages", std::to_string(pool.surplus) + "\n");
  tree.write(pages_of(node) + "/free_hugepages", std::to_string(pool.free) + "\n");
  for (const char* name : {"nr_hugepages", "surplus_hugepages"}) {
    tree.write(std::string(kAllPages) + "/" + name,
               std::to_string(pool_of(tree, 0, name) + pool_of(tree, 1, name)) + "\n");
  }
}

}  // namespace

int pool_of(const PciTree& tree, unsigned node, const std::string& attribute) {
  return std::stoi(tree.tree().read(pages_of(node) + "/" + attribute).value_or("0"));
}

template <typename Change>
void FakeKernel::meet(Change change) {
  const bool now = ++count_ == fail_at_;
  if (now && fault_ == Fault::fails) {
    fail();
  }
  if (now && fault_ == Fault::killed) {
    throw Killed{};
  }
  if (now && fault_ == Fault::stuck) {
    throw Stuck("Cannot do what the test asked: the kernel does not come back");
  }
  change();
  if (now && fault_ == Fault::fails_after) {
    fail();
  }
  if (now && fault_ == Fault::killed_after) {
    throw Killed{};
  }
}

/// Not in a child, as Host does it: a sweep reads a thousand, and to fork takes a sanitizer long.
std::string FakeKernel::read_locked(const std::string& path) const {
  const auto text = tree().read(path);
  if (!text) {
    throw std::system_error(ENOENT, std::generic_category(), "read " + path);
  }
  return *text;
}

void FakeKernel::write(const std::string& path, const std::string& value) {
  meet([&] {
    const std::string real =
        path.starts_with(kDevices)
            ? tree_.device(address_of(path)) +
                  path.substr(std::string(kDevices).size() + address_of(path).size())
            : path;
    if (path.ends_with("/reset_method") && value == refused_methods_) {
      throw std::system_error(EINVAL, std::generic_category(), "write " + path);
    }
    if (path.ends_with("/cgroup.subtree_control")) {
      turn_controllers(path, value);
    } else {
      tree_.write(real,
                  (value.empty() && path.ends_with("/driver_override") ? "(null)" : value) + "\n");
    }
  });
}

/// "+cpu -cpuset"
void FakeKernel::turn_controllers(const std::string& path, const std::string& words) {
  std::vector<std::string> on = base::split(tree().read(path).value_or(""), ' ');
  std::erase(on, "");
  for (const std::string& word : base::split(words, ' ')) {
    std::erase(on, word.substr(1));
    if (word.starts_with('+')) {
      on.push_back(word.substr(1));
    }
  }
  std::sort(on.begin(), on.end());
  tree_.write(path, base::join(on, " ") + "\n");
}

std::vector<int> FakeKernel::write_each(
    const std::vector<std::pair<std::string, std::string>>& values) {
  std::vector<int> errors;
  for (const auto& [path, value] : values) {
    const auto file = tree().status(path);
    errors.push_back(!file ? ENOENT : (file->st_mode & S_IWUSR) == 0 ? EIO : 0);
    if (errors.back() == 0) {
      write(path, value);
    }
  }
  return errors;
}

void FakeKernel::demand_controllers(const std::string& unit,
                                    unsigned /*weight*/,
                                    const base::CpuSet& /*cpus*/) {
  meet([&] { tree_.write("/sys/fs/cgroup/" + unit + "/cgroup.controllers", "cpu cpuset\n"); });
}

namespace {

void write_status(PciTree& tree, pid_t thread, const std::string& cpus) {
  tree.write("/proc/" + std::to_string(thread) + "/status",
             "Name:\trcuo/2\nCpus_allowed_list:\t" + cpus + "\nvoluntary_ctxt_switches:\t1\n");
}

}  // namespace

/// Files in /allowed, for units that are active.
std::map<std::string, base::CpuSet> FakeKernel::allowed_cpus(
    const std::vector<std::string>& units) const {
  std::map<std::string, base::CpuSet> found;
  for (const std::string& unit : units) {
    if (const auto text = tree().read("/allowed/" + unit)) {
      found[unit] = base::parse_cpu_set(*text).value_or(base::CpuSet());
    }
  }
  return found;
}

void FakeKernel::allow_cpus(const std::string& unit, const base::CpuSet& cpus) {
  meet([&] { tree_.write("/allowed/" + unit, base::to_string(cpus) + "\n"); });
}

std::vector<int> FakeKernel::set_affinity_each(
    const std::vector<std::pair<pid_t, base::CpuSet>>& threads) {
  for (const auto& [thread, cpus] : threads) {
    meet([&, number = thread, &wanted = cpus] {
      write_status(tree_, number, base::to_string(wanted));
    });
  }
  return std::vector<int>(threads.size());
}

void FakeKernel::write_on_node(const std::string& path, const std::string& value, unsigned node) {
  meet([&] {
    Memory& memory = memory_[node];
    if (path.ends_with("/compact")) {
      memory.left += std::exchange(memory.scattered, 0);
    } else if (path.ends_with("/drop_caches")) {
      memory.left += std::exchange(memory.cached, 0);
    } else {
      const Pool other = read_pool(tree_, 1 - node);
      set_pool(node, std::stoi(value) - (other.total - other.surplus));
    }
  });
}

/// As set_max_huge_pages() of mm/hugetlb.c does: surplus pages become persistent before others are
/// added, and pages in use become surplus when no free ones are left to take away.
void FakeKernel::set_pool(unsigned node, int persistent) {
  Pool pool = read_pool(tree_, node);
  int& left = memory_[node].left;
  const auto now = [&pool] { return pool.total - pool.surplus; };
  for (; now() < persistent && pool.surplus > 0; --pool.surplus) {
  }
  for (; now() < persistent && left > 0; ++pool.total, ++pool.free, --left) {
  }
  for (; now() > persistent && pool.free > 0; --pool.total, --pool.free, ++left) {
  }
  for (; now() > persistent && pool.surplus < pool.total; ++pool.surplus) {
  }
  write_pool(tree_, node, pool);
}

void FakeKernel::set_memory(unsigned node, int pages, int scattered, int cached) {
  memory_[node] = {pages, scattered, cached};
}

void FakeKernel::take_pages(unsigned node, int pages) {
  Pool pool = read_pool(tree_, node);
  pool.free -= pages;
  write_pool(tree_, node, pool);
}

void FakeKernel::give_pages_back(unsigned node, int pages) {
  Pool pool = read_pool(tree_, node);
  const int gone = std::min(pages, pool.surplus);
  memory_[node].left += gone;
  write_pool(tree_, node, {pool.total - gone, pool.surplus - gone, pool.free + pages - gone});
}

void FakeKernel::sync() {
  meet([] {});
}

void FakeKernel::write_to_driver(const std::string& path, const std::string& value) {
  meet([&] {
    if (path.starts_with(kPlatformDrivers)) {
      bind_platform(path.substr(std::string(kPlatformDrivers).size()), value);
    } else if (path == "/sys/bus/usb/drivers_probe") {
      probe_usb(value);
    } else if (path.ends_with("/bConfigurationValue")) {
      tree_.write(path, value + "\n");
    } else if (path.ends_with("/remove")) {
      tree_.take_away(address_of(path));
    } else if (path.ends_with("/rescan")) {
      tree_.bring_back(lost_);
    } else {
      path.ends_with("/unbind") ? bind(value, "") : probe(value);
    }
  });
}

/// `attribute` is "DRIVER/bind" or "DRIVER/unbind".
void FakeKernel::bind_platform(const std::string& attribute, const std::string& device) {
  const std::string link = "/sys/bus/platform/devices/" + device + "/driver";
  if (attribute.ends_with("/unbind")) {
    tree_.remove(link);
  } else {
    const std::string driver = attribute.substr(0, attribute.rfind('/'));
    tree_.link(link, "../../drivers/" + driver);
  }
}

launcher::systemd::Unit FakeKernel::unit(const std::string& name) const {
  const auto state = tree().read(kUnits + name);
  return {state.value_or("inactive"), false, state.has_value(), state.has_value()};
}

void FakeKernel::stop_unit(const std::string& name) {
  meet([&] { tree_.write(kUnits + name, "inactive\n"); });
}

void FakeKernel::start_unit(const std::string& name) {
  meet([&] { tree_.write(kUnits + name, "active\n"); });
}

void FakeKernel::probe(const std::string& address) {
  const std::string folder = kDevices + address;
  const std::string wanted = tree().read(folder + "/driver_override").value_or("");
  if (wanted != "(null)" && !tree().link_name(folder + "/driver") &&
      tree().exists("/sys/bus/pci/drivers/" + wanted)) {
    bind(address, wanted);
  }
}

void FakeKernel::probe_usb(const std::string& interface) {
  const auto driver = usb_drivers_.find(interface);
  if (driver != usb_drivers_.end() && tree().exists("/sys/bus/usb/devices/" + interface)) {
    bind_usb(tree_, interface, driver->second);
  }
}

/// A group has a node as long as vfio-pci has a device of it.
void FakeKernel::bind(const std::string& address, const std::string& driver) {
  tree_.bind(address, driver);
  const auto group = tree().link_name(kDevices + address + "/iommu_group");
  if (!group) {
    return;
  }
  const std::string members = "/sys/kernel/iommu_groups/" + *group + "/devices";
  bool has_vfio = false;
  for (const std::string& member : tree().list(members)) {
    has_vfio = has_vfio || tree().link_name(kDevices + member + "/driver") == "vfio-pci";
  }
  const std::string node = "/dev/vfio/" + *group;
  if (!has_vfio) {
    tree_.remove(node);
  } else if (!tree().exists(node)) {
    tree_.write(node, "");
  }
}

void FakeKernel::make_folder(const std::string& path) {
  meet([&] {
    tree_.write(path + "/cgroup.events", "populated 0\nfrozen 0\n");
    tree_.write(path + "/cgroup.procs", "");
    tree_.write(path + "/cgroup.subtree_control", "\n");
    tree_.write(path + "/cpuset.cpus.exclusive", "\n");
  });
}

void FakeKernel::remove_folder(const std::string& path) {
  meet([&] { tree_.remove(path); });
}

base::UniqueFd FakeKernel::make_tap(const std::string& name,
                                    const std::string& /*bridge*/,
                                    const std::string& /*guest_mac*/) {
  return open_tap(name, false);
}

base::UniqueFd FakeKernel::open_tap(const std::string& /*name*/, bool /*multi_queue*/) {
  base::UniqueFd tap;
  meet([&] { tap = base::open_file("/dev/null", O_RDWR); });
  return tap;
}

void FakeKernel::add_macvtap(const std::string& name,
                             const std::string& /*link*/,
                             const std::string& mac) {
  meet([&] {
    const std::string index = std::to_string(++last_link_);
    tree_.write("/sys/class/net/" + name + "/ifindex", index + "\n");
    tree_.write("/sys/class/net/" + name + "/address", mac + "\n");
    tree_.folder("/sys/class/net/" + name + "/macvtap/tap" + index);
    tree_.write("/dev/tap" + index, "");
  });
}

void FakeKernel::remove_link(unsigned index) {
  meet([&] {
    for (const std::string& name : tree().list("/sys/class/net")) {
      if (tree().read("/sys/class/net/" + name + "/ifindex") == std::to_string(index)) {
        tree_.remove("/sys/class/net/" + name);
        tree_.remove("/dev/tap" + std::to_string(index));
      }
    }
  });
}

std::string FakeKernel::read_config(const base::PciAddress& device) const {
  const std::string address = base::to_string(device);
  if (const auto told = configs_.find(address); told != configs_.end()) {
    return told->second;
  }
  std::string header(64, '\0');
  const auto put = [&](std::size_t offset, std::uint64_t value, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
      header[offset + i] = static_cast<char>(value >> (8 * i) & 0xffU);
    }
  };
  const auto id = [&](const char* name) {
    return std::stoul(tree().read(kDevices + address + "/" + name).value_or("0"), nullptr, 16);
  };
  put(0, id("vendor"), 2);
  put(2, id("device"), 2);
  const std::string windows = tree().read(kDevices + address + "/resource").value_or("");
  for (const launcher::survey::Bar& bar :
       launcher::survey::parse_bars(windows).value_or(std::vector<launcher::survey::Bar>())) {
    put(0x10 + 4 * bar.number, bar.start, bar.is_64bit ? 8 : 4);
  }
  return header;
}

void FakeKernel::note_reset(const std::string& what) {
  meet([&] {
    resets_.push_back(what);
    if (const int error = answer_ ? answer_(what) : 0; error != 0) {
      throw std::system_error(error, std::generic_category(), "reset " + what);
    }
  });
}

void FakeKernel::reset(const base::PciAddress& device, std::size_t /*methods*/) {
  const std::string address = base::to_string(device);
  const std::string methods = tree().read(kDevices + address + "/reset_method").value_or("");
  note_reset(address + " by " + methods.substr(0, methods.find(' ')));
}

void FakeKernel::reset_below(const base::PciAddress& bridge) {
  note_reset("all below " + base::to_string(bridge));
}

std::vector<launcher::steps::VfioReset> FakeKernel::ask_vfio(
    const std::vector<base::PciAddress>& devices) const {
  std::vector<launcher::steps::VfioReset> answers;
  for (const base::PciAddress& device : devices) {
    const std::string address = base::to_string(device);
    if (tree().link_name(kDevices + address + "/driver") != "vfio-pci") {
      throw std::system_error(ENODEV, std::generic_category(), "open " + address + " by vfio");
    }
    if (const auto told = vfio_.find(device); told != vfio_.end()) {
      answers.push_back(told->second);
      continue;
    }
    const std::string methods = tree().read(kDevices + address + "/reset_method").value_or("");
    answers.push_back({device, !methods.empty() && methods != "bus", devices});
  }
  return answers;
}

void FakeKernel::hot_reset(const std::vector<base::PciAddress>& devices) {
  note_reset(base::to_string(devices.front()) + " with its bus");
}

launcher::steps::KernelLog FakeKernel::kernel_log(const std::vector<std::string>& about,
                                                  std::uint64_t since) const {
  launcher::steps::KernelLog found{log_.size(), {}};
  for (std::size_t i = since; i < log_.size(); ++i) {
    for (const std::string& word : about) {
      if (log_[i].find(word) != std::string::npos) {
        found.lines.push_back(log_[i]);
      }
    }
  }
  return found;
}

std::vector<launcher::steps::Holder> FakeKernel::holders(const base::PciAddress& /*device*/) const {
  const auto next = holders_.upper_bound(++looks_);
  return next == holders_.begin() ? std::vector<launcher::steps::Holder>()
                                  : std::prev(next)->second;
}

void FakeKernel::load_module(const std::string& name) {
  meet([&] {
    tree_.folder("/sys/bus/pci/drivers/" + name);
    std::string module = name;
    std::replace(module.begin(), module.end(), '-', '_');
    tree_.folder("/sys/module/" + module);
  });
}

void add_desktop(PciTree& tree, const std::string& gpu) {
  tree.write("/units/gdm.service", "active\n");
  tree.write("/units/nvidia-persistenced.service", "active\n");
  tree.link("/etc/systemd/system/display-manager.service", "/lib/systemd/system/gdm.service");
  tree.write("/sys/class/vtconsole/vtcon0/name", "(S) dummy device\n");
  tree.write("/sys/class/vtconsole/vtcon0/bind", "0\n");
  tree.write("/sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n");
  tree.write("/sys/class/vtconsole/vtcon1/bind", "1\n");
  tree.link("/sys/class/graphics/fb0/device", tree.device(gpu));
  tree.write(tree.device(gpu) + "/resource",
             "0x00000000a0000000 0x00000000a0ffffff 0x0000000000040200\n"
             "0x00000000c0000000 0x00000000cfffffff 0x000000000014220c\n"
             "0x0000000000000000 0x0000000000000000 0x0000000000000000\n");
  tree.write("/proc/iomem",
             "00001000-0009ffff : System RAM\n"
             "a0000000-dfffffff : PCI Bus 0000:00\n"
             "  c0000000-cfffffff : 0000:01:00.0\n"
             "    c0000000-c02fffff : BOOTFB\n");
  tree.folder("/sys/bus/platform/drivers/simple-framebuffer");
  tree.link("/sys/bus/platform/devices/simple-framebuffer.0/driver",
            "../../drivers/simple-framebuffer");
}

/// Four CPUs, what the kernel keeps about them, an interrupt, and a thread of its own.
void add_processors(PciTree& tree) {
  const std::string cpus = "/sys/devices/system/cpu";
  tree.write(cpus + "/online", "0-3\n");
  for (const unsigned cpu : {0U, 1U, 2U, 3U}) {
    const std::string folder = cpus + "/cpu" + std::to_string(cpu);
    tree.write(folder + "/topology/thread_siblings_list", std::to_string(cpu) + "\n");
    tree.write(folder + "/cpufreq/scaling_governor", "schedutil\n");
    tree.write(folder + "/cpufreq/energy_performance_preference", "balance_power\n");
  }
  tree.write("/proc/sys/kernel/sched_rt_runtime_us", "950000\n");
  tree.write("/proc/sys/kernel/watchdog_cpumask", "0-3\n");
  tree.write("/proc/sys/vm/stat_interval", "1\n");
  tree.write("/sys/devices/virtual/workqueue/cpumask", "f\n");
  tree.write("/sys/devices/virtual/workqueue/writeback/cpumask", "f\n");
  tree.write("/proc/irq/default_smp_affinity", "f\n");
  tree.write("/proc/irq/24/smp_affinity_list", "0-3\n");
  tree.folder("/proc/irq/24/nvme0q0");
  tree.write("/proc/irq/25/smp_affinity_list", "0-3\n");  // nobody's
  tree.write("/proc/irq/26/smp_affinity_list", "2\n");
  tree.folder("/proc/irq/26/enp3s0");
  tree.write("/proc/2/task/2/children", "17 18 ");
  for (const auto& [pid, flags] : {std::pair(17, "2129984"), std::pair(18, "69238848")}) {
    tree.write(
        "/proc/" + std::to_string(pid) + "/stat",
        std::to_string(pid) + " (rcuo/2) S 2 0 0 0 -1 " + flags +
            " 0 0 0 0 0 0 0 0 20 0 1 0 33 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 "
            "0 0 0 17 2 0 0 0 0 0\n");
    write_status(tree, pid, "0-3");
  }
}

void add_system(PciTree& tree) {
  tree.write("/proc/self/mountinfo",
             "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n");
  tree.write("/proc/self/cgroup", "0::/\n");
  tree.write("/sys/fs/cgroup/cgroup.procs", "");
  tree.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
  tree.write("/sys/fs/cgroup/cgroup.subtree_control", "memory\n");
  tree.write("/sys/fs/cgroup/cpuset.cpus.isolated", "\n");
  add_processors(tree);
  tree.folder("/lib/modules");
  tree.folder("/dev/vfio");
  for (const unsigned node : {0U, 1U}) {
    const std::string number = std::to_string(node);
    tree.write("/sys/devices/system/node/node" + number + "/meminfo",
               "Node " + number + " MemTotal:       16777216 kB\nNode " + number +
                   " MemFree:        12582912 kB\n");
    write_pool(tree, node, {0, 0, 0});
  }
  tree.write("/sys/module/kvm/parameters/ignore_msrs", "N\n");
  tree.write("/sys/module/kvm/parameters/halt_poll_ns", "200000\n");
  tree.write("/sys/module/kvm/parameters/report_ignored_msrs", "Y\n");
  tree.write("/dev/net/tun", "");
  tree.write("/dev/vhost-net", "");
  tree.write("/sys/class/net/br0/ifindex", "2\n");
  tree.write("/sys/class/net/enp3s0/ifindex", "3\n");
  // Loaded modules stay loaded: from the start, so that they are no difference.
  tree.folder("/sys/bus/pci/drivers/vfio-pci");
  tree.folder("/sys/bus/pci/drivers/pci-stub");
}

std::map<std::string, std::string> snapshot(const PciTree& tree) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(tree.root())) {
    const std::string path = entry.path().string().substr(tree.root().size());
    if (entry.is_symlink()) {
      all[path] = "-> " + fs::read_symlink(entry.path()).string();
    } else if (entry.is_regular_file()) {
      std::ifstream file(entry.path(), std::ios::binary);
      all[path] = std::string(std::istreambuf_iterator<char>(file), {});
    } else {
      all[path] = "folder";
    }
  }
  return all;
}

std::string difference(const std::map<std::string, std::string>& before,
                       const std::map<std::string, std::string>& after) {
  std::string text;
  for (const auto& [path, content] : before) {
    const auto now = after.find(path);
    if (now == after.end()) {
      text += path + " is gone\n";
    } else if (now->second != content) {
      text += base::join({path, ": \"", content, "\" became \"", now->second, "\"\n"}, "");
    }
  }
  for (const auto& [path, content] : after) {
    if (!before.contains(path)) {
      text += base::join({path, " is new: \"", content, "\"\n"}, "");
    }
  }
  return text;
}

}  // namespace vmlaunch::tests
