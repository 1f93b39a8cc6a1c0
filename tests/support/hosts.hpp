#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/pci_tree.hpp"

// Hosts that no emulated machine shows, built from what was published of real ones: vendors' pages
// for caches and frequencies, listings of lscpu and lspci for numbers and IOMMU groups. Where a
// source is silent, what stands here is that of the family, and the comment says so.

namespace vmlaunch::tests {

/// A core of a built host: its threads and what they share.
struct CoreParts {
  std::string threads;  ///< as thread_siblings_list
  unsigned core = 0;
  unsigned socket = 0;
  std::string cluster = {};  ///< the CPUs that share its second-level cache; "": its threads
  std::string l2 = {};       ///< that cache's size
  std::string l3_cpus = {};  ///< the CPUs that share its third-level cache
  std::string l3 = {};       ///< that cache's size
  unsigned max_khz = 0;
  std::string governor = "powersave";
};

/// Adds its threads to /sys/devices/system/cpu.
void add_core(const PciTree& tree, const CoreParts& parts);

/// The host's memory in KiB, and pools of 2M and 1G pages, empty unless they are given.
struct MemoryParts {
  std::uint64_t total = 0;
  std::uint64_t available = 0;
  unsigned pages_2m = 0;
  unsigned pages_1g = 0;
};

void add_memory(const PciTree& tree, const MemoryParts& parts);

/// A NUMA node with its share of the memory.
void add_node(const PciTree& tree,
              unsigned number,
              const std::string& cpus,
              const std::string& distances,
              const MemoryParts& parts);

/// What the kernel says of itself: the words of its command line, and the modules that are there.
void add_kernel(const PciTree& tree, const std::string& command_line, const std::string& kvm);

/// Windows of so many bytes as BAR 0 and BAR 1, of which the second can be resized to what `mask`
/// says: bit n for 2^n MiB.
void add_bars(const PciTree& tree,
              const std::string& address,
              std::uint64_t bar0,
              std::uint64_t bar1,
              const std::string& mask = "");

/// Core i9-13900KF: 8 performance cores with two threads each (CPUs 0-15 in pairs), then 16
/// efficient ones in clusters of four (16-31), one third-level cache. Sources: lscpu in
/// github.com/FeralInteractive/gamemode/issues/498 (numbers, frequencies); Intel's product page
/// (caches). Its graphics card is a GeForce RTX 3070 Ti; its IOMMU groups are those of
/// github.com/lexi-src/sGPUpt/issues/28, a host of the generation before.
void add_hybrid_desktop(PciTree& tree);

/// Ryzen 9 9950X3D: two dies of 8 cores, threads n and n+16, third-level caches of 96 MiB and
/// 32 MiB. Sources: rmnr.net/blog/9950x3d-vcache-pinning-cachyos (numbers, caches); AMD's product
/// page (frequencies). Numbers are the same on a Ryzen 9 3950X, of which lstopo is in
/// github.com/bryansteiner/gpu-passthrough-tutorial/issues/19.
void add_two_die_desktop(PciTree& tree);

/// Two Xeon E5-2680 v2: ten cores each, CPUs 0-9 and 10-19, second threads 20-29 and 30-39, a NUMA
/// node each. Sources: lscpu in github.com/autonomys/subspace/issues/2456 (first threads, nodes,
/// frequencies); Intel's product page (caches). Second threads follow the first ones, as the
/// kernel's Documentation/arch/x86/topology.rst says of most firmware; distances are those that
/// most such servers have. An X520 network card with virtual functions (ixgbe, 63 of them) and a
/// second graphics card for guests.
void add_two_socket_server(PciTree& tree);

/// Core i7-6700: four cores, threads n and n+4, HD Graphics 530 and a GeForce GTX 1660 of four
/// functions. Sources: lscpu in einverne.github.io/post/2017/01/lscpu-show-cpu-info.html; IOMMU
/// groups in github.com/Coopydood/ultimate-macOS-KVM/issues/213.
void add_four_core_desktop(PciTree& tree);

/// A laptop of which the only GPU shares card and IOMMU group with USB controllers and sound: an
/// IdeaPad 14ACN6 as in github.com/ryanprescott/realtek-verb-tools/issues/8. Threads are in pairs,
/// as github.com/mengmeet/PowerControl/issues/27 says of the APUs before Phoenix; six cores as of a
/// Ryzen 5 5600U (AMD's product page).
void add_one_gpu_laptop(PciTree& tree);

/// Core i7-8750H with a GeForce GTX 1070 Mobile: six cores, threads n and n+6 (Intel's product
/// page; numbers as on the i7-6700), devices as add_laptop has them, and its IOMMU is off: the
/// firmware has it, and the kernel was not told.
void add_two_gpu_laptop(PciTree& tree);

}  // namespace vmlaunch::tests
