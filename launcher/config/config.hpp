#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/byte_size.hpp"
#include "base/duration.hpp"
#include "base/pci_address.hpp"
#include "launcher/config/document.hpp"
#include "launcher/config/values.hpp"

namespace vmlaunch::launcher::config {

enum class Machine { q35, pc };
enum class Accel { automatic, kvm, tcg };
enum class DiskFormat { raw, qcow2 };
enum class NicModel { virtio, e1000e };
/// What carries a NIC's packets: QEMU itself, or a network link of the host.
enum class NicKind { user, bridge, tap, macvtap };
/// What else than the listed function is meant: the guest gets all functions of its slot; all of
/// its IOMMU group is taken.
enum class PciScope { listed, all };

/// Where the guest's first serial port goes.
struct Serial {
  enum class Kind { none, stdio, file };

  Kind kind = Kind::none;
  std::string file;

  bool operator==(const Serial&) const = default;
};

/// The guest's screen: none, or a VNC server on an address of the host.
struct Display {
  std::optional<Endpoint> vnc;

  bool operator==(const Display&) const = default;
};

/// A config as it was written: every value has its type, nothing is filled in or checked against
/// anything else.
struct Config {
  struct Cpu {
    std::optional<std::string> model;
    std::optional<unsigned> sockets;
    std::optional<unsigned> cores;
    std::optional<unsigned> threads;
  };
  struct Firmware {
    std::optional<bool> uefi;
    std::optional<std::string> vars;
    std::optional<std::string> code;
    std::optional<std::string> vars_template;
  };
  struct Disk {
    std::optional<std::string> path;
    std::optional<DiskFormat> format;
    std::optional<bool> readonly;
  };
  struct Nic {
    std::vector<NicKind> kinds;                        ///< those that are given; one is right
    std::optional<std::string> link;                   ///< the last that was read
    std::vector<std::optional<PortForward>> forwards;  ///< nothing for what could not be read
    std::optional<NicModel> model;
    std::optional<MacAddress> mac;
  };
  struct Pci {
    std::optional<base::PciAddress> device;
    std::optional<PciScope> functions;
    std::optional<PciScope> group;
    std::optional<PciIds> expect;
  };
  struct Qemu {
    std::optional<std::string> binary;
    std::vector<std::string> extra_args;
  };

  std::optional<std::string> name;
  std::optional<Machine> machine;
  std::optional<Accel> accel;
  Cpu cpu;
  std::optional<base::ByteSize> memory_size;
  std::optional<std::string> kernel;
  std::optional<std::string> initrd;
  std::optional<std::string> append;
  Firmware firmware;
  std::vector<Disk> disks;
  std::vector<Nic> network;
  std::vector<Pci> pci;
  std::optional<Display> display;
  std::optional<Serial> serial;
  Qemu qemu;
  std::optional<std::string> run_as;
  std::optional<base::Milliseconds> stop_timeout;
};

/// The names that a config uses for these, and the inverse of each.
[[nodiscard]] const char* to_string(Machine machine);
[[nodiscard]] const char* to_string(Accel accel);
[[nodiscard]] const char* to_string(DiskFormat format);
[[nodiscard]] const char* to_string(NicModel model);
[[nodiscard]] const char* to_string(NicKind kind);
[[nodiscard]] const char* to_string(PciScope scope);

/// Reads the types. What is wrong is added to `issues`, and that value left out.
[[nodiscard]] Config parse(const Document& document, std::vector<Issue>& issues);

}  // namespace vmlaunch::launcher::config
