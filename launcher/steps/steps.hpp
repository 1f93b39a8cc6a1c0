#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_size.hpp"
#include "base/duration.hpp"
#include "base/pci_address.hpp"
#include "launcher/steps/step.hpp"

/// The steps that there are. The file of its name says what each does; `from` is the driver that
/// the survey found, "" for none.
namespace vmlaunch::launcher::steps {

/// Huge pages of one size that are to be free on a node.
struct PoolSize {
  unsigned node = 0;
  base::ByteSize page;       ///< the size of each
  std::uint64_t pages = 0;   ///< how many
  bool compact = true;       ///< the kernel may move memory together for them
  bool drop_caches = false;  ///< it may drop what it has cached of the host's files
};

[[nodiscard]] Step make_cgroup(std::string vm, bool in_unit = false);
[[nodiscard]] Step set_parameter(std::string name, bool on);
[[nodiscard]] Step fill_pool(const PoolSize& size);
[[nodiscard]] Step load_vfio();
[[nodiscard]] Step keep_awake(const base::PciAddress& device);
[[nodiscard]] Step override_driver(const base::PciAddress& device, std::string from);
[[nodiscard]] Step await_release(const base::PciAddress& device, base::Milliseconds limit);
[[nodiscard]] Step bind_driver(const base::PciAddress& device, std::string from);
[[nodiscard]] Step own_node(unsigned group);
/// A device and the driver that it had.
struct DriverOf {
  base::PciAddress device;
  std::string driver;
};
[[nodiscard]] Step stop_unit(std::string unit, std::vector<DriverOf> devices);
[[nodiscard]] Step release_console();
[[nodiscard]] Step release_framebuffer(std::string name, const base::PciAddress& device);
[[nodiscard]] Step start_qemu(bool in_cgroup);

/// Where make_cgroup makes the cgroup of a VM. Throws Failure (preflight) where cgroup2 cannot be
/// used.
[[nodiscard]] std::string cgroup_of(const Host& host, const std::string& vm);

/// A path that cgroup_of can have given, or "". Throws FormError for any other.
[[nodiscard]] std::string read_cgroup(Fields& fields, const char* key);

}  // namespace vmlaunch::launcher::steps
