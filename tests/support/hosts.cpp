#include "tests/support/hosts.hpp"

#include "base/cpu_set.hpp"
#include "base/text.hpp"

namespace vmlaunch::tests {

namespace {

using base::hex;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20U;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30U;
constexpr std::uint64_t kGiBinKiB = kMiB;

constexpr const char* kCpus = "/sys/devices/system/cpu/";

struct CacheParts {
  const char* level;
  const char* type;
  std::string cpus;
  std::string size;
};

void add_cache(const PciTree& tree,
               const std::string& cpu,
               unsigned index,
               const CacheParts& parts) {
  const std::string folder = cpu + "/cache/index" + std::to_string(index);
  tree.write(folder + "/level", std::string(parts.level) + "\n");
  tree.write(folder + "/type", std::string(parts.type) + "\n");
  tree.write(folder + "/shared_cpu_list", parts.cpus + "\n");
  tree.write(folder + "/size", parts.size + "\n");
}

void add_pool(const PciTree& tree,
              const std::string& folder,
              const std::string& size,
              unsigned pages,
              bool is_global) {
  const std::string pool = folder + "/hugepages-" + size + "kB";
  tree.write(pool + "/nr_hugepages", std::to_string(pages) + "\n");
  tree.write(pool + "/free_hugepages", std::to_string(pages) + "\n");
  tree.write(pool + "/surplus_hugepages", "0\n");
  if (is_global) {
    tree.write(pool + "/resv_hugepages", "0\n");
  }
}

void add_cpuinfo(const PciTree& tree, const std::string& vendor, const std::string& model) {
  tree.write("/proc/cpuinfo",
             "processor\t: 0\nvendor_id\t: " + vendor +
                 "\ncpu family\t: 6\nmodel name\t: " + model + "\n");
}

/// "n,n+distance"
std::string pair(unsigned first, unsigned distance) {
  return base::to_string(base::CpuSet{first, first + distance});
}

/// The functions of a graphics card behind a port, all in one group.
struct CardParts {
  std::string port;
  std::string slot;  ///< without the function: "0000:01:00."
  std::vector<PciParts> functions;
  unsigned group = 0;
};

void add_card(PciTree& tree, const CardParts& card) {
  for (std::size_t i = 0; i < card.functions.size(); ++i) {
    PciParts parts = card.functions[i];
    parts.group = card.group;
    parts.bridge = card.port;
    tree.add(card.slot + std::to_string(i), parts);
  }
}

PciParts host_bridge(std::uint16_t vendor, std::uint16_t device, unsigned group) {
  return {.vendor = vendor, .device = device, .class_code = 0x060000, .group = group};
}

PciParts port(std::uint16_t vendor, std::uint16_t device, unsigned group) {
  return {.vendor = vendor,
          .device = device,
          .class_code = 0x060400,
          .driver = "pcieport",
          .group = group};
}

PciParts nvidia(std::uint16_t device, std::uint32_t class_code, const std::string& driver) {
  return {.vendor = 0x10de,
          .device = device,
          .class_code = class_code,
          .revision = 0xa1,
          .driver = driver,
          .reset = "bus"};
}

}  // namespace

void add_core(const PciTree& tree, const CoreParts& parts) {
  const std::string l2_cpus = parts.cluster.empty() ? parts.threads : parts.cluster;
  const base::CpuSet threads = base::parse_cpu_set(parts.threads).value();
  for (const unsigned thread : threads) {
    const std::string cpu = kCpus + ("cpu" + std::to_string(thread));
    tree.write(cpu + "/topology/physical_package_id", std::to_string(parts.socket) + "\n");
    tree.write(cpu + "/topology/die_id", "0\n");
    tree.write(cpu + "/topology/core_id", std::to_string(parts.core) + "\n");
    tree.write(cpu + "/topology/thread_siblings_list", parts.threads + "\n");
    add_cache(tree, cpu, 0, {"1", "Data", parts.threads, "32K"});
    add_cache(tree, cpu, 1, {"1", "Instruction", parts.threads, "32K"});
    add_cache(tree, cpu, 2, {"2", "Unified", l2_cpus, parts.l2});
    add_cache(tree, cpu, 3, {"3", "Unified", parts.l3_cpus, parts.l3});
    tree.write(cpu + "/cpufreq/cpuinfo_max_freq", std::to_string(parts.max_khz) + "\n");
    tree.write(cpu + "/cpufreq/scaling_governor", parts.governor + "\n");
    if (thread != 0) {
      tree.write(cpu + "/online", "1\n");
    }
  }
  tree.write(kCpus + std::string("isolated"), "\n");
}

void add_memory(const PciTree& tree, const MemoryParts& parts) {
  tree.write("/proc/meminfo",
             "MemTotal:       " + std::to_string(parts.total) +
                 " kB\nMemFree:        " + std::to_string(parts.available / 2) +
                 " kB\nMemAvailable:   " + std::to_string(parts.available) + " kB\n");
  tree.write("/proc/sys/vm/overcommit_memory", "0\n");
  tree.write("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
  add_pool(tree, "/sys/kernel/mm/hugepages", "2048", parts.pages_2m, true);
  add_pool(tree, "/sys/kernel/mm/hugepages", "1048576", parts.pages_1g, true);
}

void add_node(const PciTree& tree,
              unsigned number,
              const std::string& cpus,
              const std::string& distances,
              const MemoryParts& parts) {
  const std::string name = std::to_string(number);
  const std::string folder = "/sys/devices/system/node/node" + name;
  tree.write(folder + "/cpulist", cpus + "\n");
  tree.write(folder + "/distance", distances + "\n");
  tree.write(folder + "/meminfo",
             "Node " + name + " MemTotal:       " + std::to_string(parts.total) + " kB\nNode " +
                 name + " MemFree:        " + std::to_string(parts.available) + " kB\n");
  add_pool(tree, folder + "/hugepages", "2048", parts.pages_2m, false);
  add_pool(tree, folder + "/hugepages", "1048576", parts.pages_1g, false);
}

void add_kernel(const PciTree& tree, const std::string& command_line, const std::string& kvm) {
  tree.write("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n");
  tree.write("/proc/cmdline",
             "BOOT_IMAGE=/boot/vmlinuz-6.1.0-18-amd64 root=UUID=5d9b5c1f-8c2e ro quiet " +
                 command_line + "\n");
  tree.write("/sys/kernel/security/lockdown", "[none] integrity confidentiality\n");
  tree.write("/dev/kvm", "");
  tree.write("/sys/module/kvm/parameters/ignore_msrs", "N\n");
  tree.write("/sys/module/kvm/parameters/halt_poll_ns", "200000\n");
  tree.write("/sys/module/" + kvm + "/parameters/nested", kvm == "kvm_amd" ? "1\n" : "Y\n");
  tree.write(std::string("/sys/firmware/acpi/tables/") + (kvm == "kvm_amd" ? "IVRS" : "DMAR"), "");
  tree.write("/proc/self/mountinfo",
             "35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 "
             "cgroup2 rw,nsdelegate,memory_recursiveprot\n");
  tree.write("/proc/self/cgroup", "0::/\n");
  tree.write("/sys/fs/cgroup/cgroup.procs", "");
  tree.write("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n");
}

void add_bars(const PciTree& tree,
              const std::string& address,
              std::uint64_t bar0,
              std::uint64_t bar1,
              const std::string& mask) {
  const auto line = [](std::uint64_t start, std::uint64_t size, std::uint64_t flags) {
    return size == 0 ? "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
                     : "0x" + hex(start, 16) + " 0x" + hex(start + size - 1, 16) + " 0x" +
                           hex(flags, 16) + "\n";
  };
  std::string text = line(0xf6000000, bar0, 0x40200) + line(0xe0000000, bar1, 0x14220c);
  while (text.size() < 13 * line(0, 0, 0).size()) {
    text += line(0, 0, 0);
  }
  tree.write(tree.device(address) + "/resource", text);
  if (!mask.empty()) {
    tree.write(tree.device(address) + "/resource1_resize", mask + "\n");
  }
}

void add_hybrid_desktop(PciTree& tree) {
  add_cpuinfo(tree, "GenuineIntel", "13th Gen Intel(R) Core(TM) i9-13900KF");
  for (unsigned core = 0; core < 8; ++core) {
    // Two of them have the higher turbo.
    add_core(tree,
             {.threads = pair(2 * core, 1),
              .core = 4 * core,
              .l2 = "2048K",
              .l3_cpus = "0-31",
              .l3 = "36864K",
              .max_khz = core == 4 || core == 5 ? 5800000U : 5500000U});
  }
  for (unsigned cpu = 16; cpu < 32; ++cpu) {
    const unsigned first = cpu / 4 * 4;
    add_core(tree,
             {.threads = std::to_string(cpu),
              .core = cpu + 16,
              .cluster = std::to_string(first) + "-" + std::to_string(first + 3),
              .l2 = "4096K",
              .l3_cpus = "0-31",
              .l3 = "36864K",
              .max_khz = 4300000});
  }
  tree.write("/sys/devices/cpu_core/cpus", "0-15\n");
  tree.write("/sys/devices/cpu_atom/cpus", "16-31\n");
  add_memory(tree, {64 * kGiBinKiB, 57 * kGiBinKiB, 0, 0});
  add_node(tree, 0, "0-31", "10", {64 * kGiBinKiB, 52 * kGiBinKiB, 0, 0});
  add_kernel(tree, "intel_iommu=on iommu=pt", "kvm_intel");
  tree.add("0000:00:00.0", host_bridge(0x8086, 0xa700, 0));
  tree.add("0000:00:01.0", port(0x8086, 0xa70d, 1));
  add_card(tree,
           {"0000:00:01.0",
            "0000:01:00.",
            {nvidia(0x2482, 0x030000, "nouveau"), nvidia(0x228b, 0x040300, "snd_hda_intel")},
            1});
  add_bars(tree, "0000:01:00.0", 16 * kMiB, 256 * kMiB, "0000000000007fc0");
  tree.write(tree.device("0000:01:00.0") + "/boot_vga", "1\n");
}

void add_two_die_desktop(PciTree& tree) {
  add_cpuinfo(tree, "AuthenticAMD", "AMD Ryzen 9 9950X3D 16-Core Processor");
  for (unsigned core = 0; core < 16; ++core) {
    add_core(tree,
             {.threads = pair(core, 16),
              .core = core,
              .l2 = "1024K",
              .l3_cpus = core < 8 ? "0-7,16-23" : "8-15,24-31",
              .l3 = core < 8 ? "98304K" : "32768K",
              .max_khz = core < 8 ? 5550000U : 5700000U,
              .governor = "performance"});
  }
  add_memory(tree, {96 * kGiBinKiB, 90 * kGiBinKiB, 0, 16});
  add_node(tree, 0, "0-31", "10", {96 * kGiBinKiB, 70 * kGiBinKiB, 0, 16});
  add_kernel(tree,
             "iommu=pt isolcpus=domain,managed_irq,1-7,17-23 nohz_full=1-7,17-23 "
             "rcu_nocbs=1-7,17-23 default_hugepagesz=1G hugepagesz=1G hugepages=16",
             "kvm_amd");
  tree.write(kCpus + std::string("isolated"), "1-7,17-23\n");
  tree.write(kCpus + std::string("nohz_full"), "1-7,17-23\n");
  tree.add("0000:00:00.0", host_bridge(0x1022, 0x14d8, 0));
  tree.add("0000:00:01.0", host_bridge(0x1022, 0x14da, 1));
  tree.add("0000:00:01.1", port(0x1022, 0x14db, 2));
  add_card(tree,
           {"0000:00:01.1",
            "0000:01:00.",
            {{.vendor = 0x1002,
              .device = 0x744c,
              .class_code = 0x030000,
              .revision = 0xc8,
              .driver = "amdgpu",
              .reset = "bus"},
             {.vendor = 0x1002,
              .device = 0xab30,
              .class_code = 0x040300,
              .driver = "snd_hda_intel",
              .reset = "pm bus"}},
            13});
  add_bars(tree, "0000:01:00.0", 1 * kMiB, 32 * kGiB, "000000000000ff00");
}

void add_two_socket_server(PciTree& tree) {
  add_cpuinfo(tree, "GenuineIntel", "Intel(R) Xeon(R) CPU E5-2680 v2 @ 2.80GHz");
  for (unsigned core = 0; core < 20; ++core) {
    const unsigned socket = core / 10;
    const unsigned place = core % 10;
    add_core(tree,
             {.threads = pair(core, 20),
              // The numbers of a ten-core die leave some out.
              .core = place < 5 ? place : place + 3,
              .socket = socket,
              .l2 = "256K",
              .l3_cpus = socket == 0 ? "0-9,20-29" : "10-19,30-39",
              .l3 = "25600K",
              .max_khz = 3600000,
              .governor = "ondemand"});
  }
  const std::uint64_t half = 64 * kGiBinKiB;
  add_memory(tree, {2 * half, 100 * kGiBinKiB, 4096, 8});
  add_node(tree, 0, "0-9,20-29", "10 21", {half, 30 * kGiBinKiB, 2048, 8});
  add_node(tree, 1, "10-19,30-39", "21 10", {half, 60 * kGiBinKiB, 2048, 0});
  add_kernel(tree, "intel_iommu=on iommu=pt hugepages=4096", "kvm_intel");
  tree.write("/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
  tree.write("/sys/module/vfio_pci/parameters/disable_idle_d3", "N\n");
  tree.add("0000:00:00.0", host_bridge(0x8086, 0x0e00, 0));
  tree.add("0000:00:02.0", port(0x8086, 0x0e04, 1));
  tree.add("0000:01:00.0",
           {.device = 0x10fb,
            .class_code = 0x020000,
            .revision = 1,
            .driver = "ixgbe",
            .group = 20,
            .reset = "flr bus",
            .bridge = "0000:00:02.0"});
  tree.write(tree.device("0000:01:00.0") + "/sriov_totalvfs", "63\n");
  tree.write(tree.device("0000:01:00.0") + "/sriov_numvfs", "2\n");
  for (unsigned number = 0; number < 2; ++number) {
    const std::string address = "0000:01:10." + std::to_string(2 * number);
    tree.add(address,
             {.device = 0x10ed,
              .class_code = 0x020000,
              .revision = 1,
              .driver = "ixgbevf",
              .group = 40 + number,
              .reset = "flr",
              .bridge = "0000:00:02.0"});
    tree.link(tree.device(address) + "/physfn", "../0000:01:00.0");
    tree.write(tree.device(address) + "/numa_node", "0\n");
  }
  tree.write(tree.device("0000:01:00.0") + "/numa_node", "0\n");
  tree.add("0000:80:03.0", port(0x8086, 0x0e08, 30));
  add_card(tree,
           {"0000:80:03.0",
            "0000:82:00.",
            {nvidia(0x2184, 0x030000, "nouveau"), nvidia(0x1aeb, 0x040300, "snd_hda_intel")},
            31});
  for (const char* address : {"0000:80:03.0", "0000:82:00.0", "0000:82:00.1"}) {
    tree.write(tree.device(address) + "/numa_node", "1\n");
  }
}

void add_four_core_desktop(PciTree& tree) {
  add_cpuinfo(tree, "GenuineIntel", "Intel(R) Core(TM) i7-6700 CPU @ 3.40GHz");
  for (unsigned core = 0; core < 4; ++core) {
    add_core(tree,
             {.threads = pair(core, 4),
              .core = core,
              .l2 = "256K",
              .l3_cpus = "0-7",
              .l3 = "8192K",
              .max_khz = 4000000});
  }
  add_memory(tree, {32 * kGiBinKiB, 27 * kGiBinKiB, 0, 0});
  add_node(tree, 0, "0-7", "10", {32 * kGiBinKiB, 20 * kGiBinKiB, 0, 0});
  add_kernel(tree, "intel_iommu=on", "kvm_intel");
  tree.add("0000:00:00.0", host_bridge(0x8086, 0x191f, 1));
  tree.add("0000:00:01.0", port(0x8086, 0x1901, 2));
  tree.add("0000:00:02.0",
           {.device = 0x1912,
            .class_code = 0x038000,
            .revision = 6,
            .driver = "i915",
            .group = 0,
            .reset = "flr pm",
            .boot_vga = true});
  add_card(tree,
           {"0000:00:01.0",
            "0000:01:00.",
            {nvidia(0x2184, 0x030000, "nouveau"),
             nvidia(0x1aeb, 0x040300, "snd_hda_intel"),
             nvidia(0x1aec, 0x0c0330, "xhci_hcd"),
             nvidia(0x1aed, 0x0c8000, "nvidia-gpu")},
            2});
}

void add_one_gpu_laptop(PciTree& tree) {
  add_cpuinfo(tree, "AuthenticAMD", "AMD Ryzen 5 5600U with Radeon Graphics");
  for (unsigned core = 0; core < 6; ++core) {
    add_core(tree,
             {.threads = pair(2 * core, 1),
              .core = core,
              .l2 = "512K",
              .l3_cpus = "0-11",
              .l3 = "16384K",
              .max_khz = 4200000,
              .governor = "schedutil"});
  }
  add_memory(tree, {14 * kGiBinKiB, 9 * kGiBinKiB, 0, 0});
  add_node(tree, 0, "0-11", "10", {14 * kGiBinKiB, 3 * kGiBinKiB, 0, 0});
  add_kernel(tree, "", "kvm_amd");
  tree.add("0000:00:08.0", host_bridge(0x1022, 0x1632, 5));
  tree.add("0000:00:08.1", port(0x1022, 0x1635, 5));
  const auto amd = [](std::uint16_t device, std::uint32_t class_code, const char* driver) {
    return PciParts{.vendor = 0x1022,
                    .device = device,
                    .class_code = class_code,
                    .driver = driver,
                    .reset = "pm"};
  };
  add_card(
      tree,
      {"0000:00:08.1",
       "0000:04:00.",
       {{.vendor = 0x1002,
         .device = 0x1638,
         .class_code = 0x030000,
         .revision = 0xc1,
         .driver = "amdgpu",
         .boot_vga = true},
        {.vendor = 0x1002, .device = 0x1637, .class_code = 0x040300, .driver = "snd_hda_intel"},
        amd(0x15df, 0x108000, "ccp"),
        amd(0x1639, 0x0c0330, "xhci_hcd"),
        amd(0x1639, 0x0c0330, "xhci_hcd"),
        amd(0x15e2, 0x048000, "snd_pci_acp3x"),
        amd(0x15e3, 0x040300, "snd_hda_intel")},
       5});
}

void add_two_gpu_laptop(PciTree& tree) {
  add_laptop(tree, false);
  add_cpuinfo(tree, "GenuineIntel", "Intel(R) Core(TM) i7-8750H CPU @ 2.20GHz");
  for (unsigned core = 0; core < 6; ++core) {
    add_core(tree,
             {.threads = pair(core, 6),
              .core = core,
              .l2 = "256K",
              .l3_cpus = "0-11",
              .l3 = "9216K",
              .max_khz = 4100000});
  }
  add_memory(tree, {16 * kGiBinKiB, 11 * kGiBinKiB, 0, 0});
  add_node(tree, 0, "0-11", "10", {16 * kGiBinKiB, 8 * kGiBinKiB, 0, 0});
  add_kernel(tree, "iommu=pt", "kvm_intel");
}

}  // namespace vmlaunch::tests
