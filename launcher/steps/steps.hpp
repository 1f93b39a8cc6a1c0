#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/byte_size.hpp"
#include "base/cpu_set.hpp"
#include "base/duration.hpp"
#include "base/pci_address.hpp"
#include "launcher/config/config.hpp"
#include "launcher/config/usb_rule.hpp"
#include "launcher/steps/step.hpp"

/// The steps that there are. The file of its name says what each does; `from` is the driver that
/// the survey found, "" for none.
namespace vmlaunch::launcher::steps {

/// What a NIC's steps have in common.
struct NicPart {
  unsigned nic = 0;    ///< of the config, from 0
  std::string link;    ///< the host's: bridge, tap, or what a macvtap is made on
  bool vhost = false;  ///< the kernel carries the packets (/dev/vhost-net), not QEMU

  bool operator==(const NicPart&) const = default;
};

/// Where QEMU finds a NIC's tap and vhost: numbers above those of files.
constexpr int kFirstNicFd = 256;
[[nodiscard]] constexpr int tap_fd(unsigned nic) {
  return kFirstNicFd + 2 * static_cast<int>(nic);
}
[[nodiscard]] constexpr int vhost_fd(unsigned nic) {
  return tap_fd(nic) + 1;
}

/// Huge pages of one size that are to be free on a node.
struct PoolSize {
  unsigned node = 0;
  base::ByteSize page;       ///< the size of each
  std::uint64_t pages = 0;   ///< how many
  bool compact = true;       ///< the kernel may move memory together for them
  bool drop_caches = false;  ///< it may drop what it has cached of the host's files
};

/// What a VM's cgroup is called: its name follows.
constexpr std::string_view kCgroupPrefix = "vmlaunch-";
[[nodiscard]] Step make_cgroup(std::string vm, bool in_unit = false);
[[nodiscard]] Step enable_controllers();
/// `weight`: the unit's, among all others of the host.
[[nodiscard]] Step enable_controllers_of_unit(unsigned weight);
/// Of CPU time: 1 to kMostWeight, and what other cgroups have.
constexpr unsigned kMostWeight = 10000;
constexpr unsigned kUsualWeight = 100;
[[nodiscard]] Step weigh_cgroup(std::string vm, unsigned weight);
/// In the VM's cgroup, for the threads of its vCPUs.
constexpr const char* kVcpuCgroup = "vcpus";
[[nodiscard]] Step isolate_cpus(std::string vm, base::CpuSet cpus);
[[nodiscard]] Step confine_host(base::CpuSet cpus);
[[nodiscard]] Step take_cpus(base::CpuSet cpus);
[[nodiscard]] Step move_interrupts(base::CpuSet cpus);
[[nodiscard]] Step move_work_queues(base::CpuSet cpus);
[[nodiscard]] Step move_kernel_threads(base::CpuSet cpus);
enum class CpuTuning { frequency, fair_server };
[[nodiscard]] Step tune_cpus(CpuTuning which, base::CpuSet cpus);
[[nodiscard]] Step set_parameter(std::string name, bool on);
/// A value of the kernel's, for the whole host.
enum class Tunable { rt_throttling, statistics, halt_polling };
[[nodiscard]] Step set_tunable(Tunable which);
[[nodiscard]] Step fill_pool(const PoolSize& size);
[[nodiscard]] Step load_driver(std::string driver);
/// The module that knows how some of AMD's cards are reset.
constexpr const char* kVendorReset = "vendor-reset";
[[nodiscard]] Step set_reset_method(const base::PciAddress& device);
[[nodiscard]] Step keep_awake(const base::PciAddress& device);
[[nodiscard]] Step override_driver(const base::PciAddress& device,
                                   std::string from,
                                   std::string to);
[[nodiscard]] Step await_release(const base::PciAddress& device, base::Milliseconds limit);
[[nodiscard]] Step bind_driver(const base::PciAddress& device, std::string from, std::string to);
[[nodiscard]] Step reset_card(std::vector<base::PciAddress> functions,
                              config::OnNoReset on_no_reset,
                              bool force_tainted = false);
[[nodiscard]] Step rescan_card(std::vector<base::PciAddress> functions);
/// A device and the driver that it had.
struct DriverOf {
  base::PciAddress device;
  std::string driver;
};
[[nodiscard]] Step stop_unit(std::string unit, std::vector<DriverOf> devices);
[[nodiscard]] Step release_console();
[[nodiscard]] Step release_framebuffer(std::string name, const base::PciAddress& device);
[[nodiscard]] Step make_tap(std::string vm, NicPart part, std::string mac);
[[nodiscard]] Step use_tap(NicPart part);
[[nodiscard]] Step make_macvtap(std::string vm, NicPart part, std::string mac);
/// What is reserved for it begins so; the rule follows.
constexpr std::string_view kUsbLock = "usb ";
/// The same for the device itself, by its name in sysfs, once a QEMU has its node.
constexpr std::string_view kUsbDeviceLock = "usb device ";
[[nodiscard]] Step lend_usb(config::UsbRule rule, bool optional);
[[nodiscard]] Step start_qemu(bool in_cgroup);

/// The name of the link that is made for a NIC. At most 15 characters, as the kernel has it: begins
/// like the VM's, and differs as that does.
[[nodiscard]] std::string own_link_name(const std::string& vm, unsigned nic);

/// What is reserved of CPUs begins so; the number follows.
constexpr std::string_view kCpuLock = "cpu ";
[[nodiscard]] base::CpuSet online_cpus(const Host& host);
/// At least one. Throws FormError.
[[nodiscard]] base::CpuSet read_cpus(Fields& fields, const char* key);

/// The cgroup that make_cgroup makes a VM's in. Throws Failure (preflight) where cgroup2 cannot be
/// used.
[[nodiscard]] std::string cgroup_parent(const Host& host);

/// Where make_cgroup makes the cgroup of a VM. Throws Failure (preflight) where cgroup2 cannot be
/// used.
[[nodiscard]] std::string cgroup_of(const Host& host, const std::string& vm);

/// A path that cgroup_of can have given, or "". Throws FormError for any other.
[[nodiscard]] std::string read_cgroup(Fields& fields, const char* key);

}  // namespace vmlaunch::launcher::steps
