#include "launcher/steps/health.hpp"

#include <algorithm>
#include <array>

#include "base/text.hpp"
#include "launcher/steps/pci_paths.hpp"
#include "launcher/survey/bar.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using base::PciAddress;

/// As the header of a device has it (PCI Local Bus Specification, 6.1).
constexpr std::size_t kVendor = 0x00;
constexpr std::size_t kDevice = 0x02;
constexpr std::size_t kCommand = 0x04;
constexpr std::size_t kFirstBar = 0x10;
constexpr std::size_t kHeader = 64;

std::uint32_t read_little(const std::string& header, std::size_t offset, std::size_t bytes) {
  std::uint32_t value = 0;
  for (std::size_t i = bytes; i-- > 0;) {
    value = value << 8U | static_cast<unsigned char>(header[offset + i]);
  }
  return value;
}

bool is_virtual(const Host& host, const PciAddress& function) {
  return host.tree().exists(device_folder(function) + "/physfn");
}

/// What is not there reads as ones. A virtual function's ids do so too; its command and status do
/// not (PCI Express Base Specification, 9.3.4.1).
bool is_silent(const std::string& header) {
  return read_little(header, kVendor, 4) == 0xffffffff &&
         read_little(header, kCommand, 4) == 0xffffffff;
}

std::string power_state_of(const Host& host, const PciAddress& function) {
  return host.tree().read(device_folder(function) + "/power_state").value_or("");
}

std::string ids_text(std::uint32_t vendor, std::uint32_t device) {
  return base::hex(vendor, 4) + ":" + base::hex(device, 4);
}

std::string fault_of_ids(const Host& host, const PciAddress& function, const std::string& header) {
  const auto known = [&](const char* name) {
    const std::string text =
        host.tree().read(device_folder(function) + "/" + name).value_or("").substr(0, 6);
    return text.starts_with("0x")
               ? base::parse_number<std::uint32_t>(text.substr(2), 16).value_or(0)
               : 0;
  };
  if (is_silent(header)) {
    const std::string state = power_state_of(host, function);
    return "does not answer: its configuration space reads as ff" +
           (state.starts_with("D3") ? ", and it is stuck in " + base::printable(state) : "");
  }
  const std::uint32_t vendor = read_little(header, kVendor, 2);
  const std::uint32_t device = read_little(header, kDevice, 2);
  if (is_virtual(host, function)) {
    return "";
  }
  return vendor == known("vendor") && device == known("device")
             ? ""
             : "says that it is " + ids_text(vendor, device) + ", and was " +
                   ids_text(known("vendor"), known("device"));
}

/// A virtual function has no BARs of its own.
std::string fault_of_bars(const Host& host, const PciAddress& function, const std::string& header) {
  const auto text = host.tree().read(device_folder(function) + "/resource");
  const auto bars = text ? survey::parse_bars(*text) : std::nullopt;
  if (!bars || is_virtual(host, function)) {
    return "";
  }
  for (const survey::Bar& bar : *bars) {
    const std::size_t offset = kFirstBar + std::size_t{4} * bar.number;
    const std::uint32_t flags = bar.is_memory ? 0xfU : 0x3U;
    const std::uint32_t now = read_little(header, offset, 4) & ~flags;
    const bool high_differs =
        bar.is_64bit && bar.number < 5 && read_little(header, offset + 4, 4) != bar.start >> 32U;
    if (bar.start != 0 && (now != static_cast<std::uint32_t>(bar.start) || high_differs)) {
      return "has lost its windows: BAR " + std::to_string(bar.number) + " is at " +
             base::hex(now, 8) + ", and was at " +
             base::hex(static_cast<std::uint32_t>(bar.start), 8) +
             "; type: vmlaunch device rescan " + base::to_string(function);
    }
  }
  return "";
}

/// One that may sleep is not at fault for it.
std::string fault_of_power(const Host& host, const PciAddress& function) {
  const std::string folder = device_folder(function);
  const std::string state = power_state_of(host, function);
  const bool may_sleep = host.tree().read(folder + "/power/control") == "auto";
  return may_sleep || !state.starts_with("D") || state == "D0"
             ? ""
             : "is stuck in " + base::printable(state) + ": it was told to wake, and did not";
}

/// Of the kernel's words those that name a fault (drivers/pci/pci.c, drivers/pci/pcie/aer.c). What
/// was corrected is none, nor a wait that came to an end.
std::string fault_in_log(const Host& host, const PciAddress& function, std::uint64_t since) {
  constexpr std::array kFaults = {"giving up",
                                  "device inaccessible",
                                  "change power state",
                                  "severity=Uncorrect",
                                  "Uncorrected (",
                                  "Uncorrectable ("};
  for (const std::string& line : host.kernel_log({base::to_string(function)}, since).lines) {
    if (std::any_of(kFaults.begin(), kFaults.end(), [&](const char* fault) {
          return line.find(fault) != std::string::npos;
        })) {
      return "is at fault in the kernel's words: " + base::printable(line);
    }
  }
  return "";
}

std::string fault_of(const Host& host, const PciAddress& function, std::uint64_t since) {
  if (!host.tree().exists(device_folder(function))) {
    return "was not found again; type: echo 1 > /sys/bus/pci/rescan";
  }
  const std::string header = host.read_config(function);
  if (header.size() < kHeader) {
    return "does not answer: its configuration space cannot be read";
  }
  for (const std::string& fault : {fault_of_ids(host, function, header),
                                   fault_of_power(host, function),
                                   fault_of_bars(host, function, header),
                                   fault_in_log(host, function, since)}) {
    if (!fault.empty()) {
      return fault;
    }
  }
  return "";
}

}  // namespace

bool answers(const Host& host, const PciAddress& function) {
  const std::string header = host.read_config(function);
  return header.size() >= kHeader && !is_silent(header);
}

std::string find_fault(const Host& host,
                       const std::vector<PciAddress>& functions,
                       std::uint64_t since) {
  for (const PciAddress& function : functions) {
    if (const std::string fault = fault_of(host, function, since); !fault.empty()) {
      return base::to_string(function) + " " + fault;
    }
  }
  return "";
}

}  // namespace vmlaunch::launcher::steps
