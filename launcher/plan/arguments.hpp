#pragma once

#include <cstddef>
#include <string>

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

using config::Json;

/// Slots of the root bus: 0, 1 and 0x1f are the chipset's on one machine type or the other.
constexpr std::size_t kHotplugSlot = 1;  // of q35, where it is free
constexpr std::size_t kScreenSlot = 2;
constexpr std::size_t kUsbSlot = 3;
constexpr std::size_t kFirstDiskSlot = 4;
constexpr std::size_t kFirstNicSlot = kFirstDiskSlot + config::kMostDisks;
constexpr std::size_t kFirstPortSlot = kFirstNicSlot + config::kMostNics;
constexpr std::size_t kPortsPerSlot = 8;  // a port is a function
constexpr std::size_t kSoundSlot = 0x1e;
static_assert(kFirstPortSlot + (config::kMostPciDevices - 1) / kPortsPerSlot < kSoundSlot);

/// QEMU's command line while it grows, with the files that it names, and what it is made of.
struct Arguments {
  const config::VmSpec& spec;
  const survey::Survey& survey;
  bool kvm;
  Plan& plan;

  void add(const std::string& argument);
  void add(const std::string& option, const std::string& value);
  void add_json(const std::string& option, const Json& value);

  /// A choice that makes the guest fast, and what in the config undoes it.
  void tell(const std::string& what, const std::string& off) const;

  /// What was added needs the system calls of that section of the policy.
  void need_calls(const char* section) const { plan.qemu.calls.sections.insert(section); }

  /// QEMU looks up something there: a folder, file or socket of the host.
  void share(const std::string& path) const;

  /// QEMU speaks to others by the host's network.
  void need_network() const { plan.qemu.root.network = true; }

  /// Reserves a number for a file and returns it.
  int use(FileUse file);

  /// For options that open their file through QEMU's own layer: a set of one descriptor. The flags
  /// that QEMU opens with must match the descriptor's.
  std::string fdset(FileUse file);

  /// For options that open a path on their own, which must be a name in QEMU's root folder.
  std::string reopened(const std::string& purpose, const std::string& path);

  /// A device on the root bus. Each kind has slots of its own, so that a change of one kind does
  /// not move another: guests take a NIC in a new slot for a new NIC.
  [[nodiscard]] Json device(const char* driver, const std::string& id, std::size_t slot) const;

  /// A PCI Express port, one function of a slot; each has a chassis number of its own.
  [[nodiscard]] Json root_port(const std::string& id,
                               std::size_t slot,
                               std::size_t function,
                               std::size_t chassis) const;
};

/// What QEMU's library for USB needs of the host, whatever the devices.
void share_usb(Arguments& args);
/// All devices of the host, by which QEMU finds one that is named.
void share_devices(Arguments& args);

/// What QEMU sees of the host's files, whatever its devices are.
void add_root(Arguments& args);

/// What it is, and how the vCPUs idle.
void add_cpu(Arguments& args);

void add_disks(Arguments& args);
void add_network(Arguments& args);

void add_pci_devices(Arguments& args);
void add_video(Arguments& args);
void add_display(Arguments& args);
/// The controller, with VNC's tablet and the host's devices.
void add_usb(Arguments& args);
void add_audio(Arguments& args);
/// Room for what comes later: ports, system calls and nodes cannot.
void add_hotplug(Arguments& args);

}  // namespace vmlaunch::launcher::plan
