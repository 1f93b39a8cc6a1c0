#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/unique_fd.hpp"

namespace vmlaunch::tests {

/// The devices of every machine of the lab, as tests/lab/devices says.
namespace device {
inline const std::string boot_gpu = "0000:00:01.0";
inline const std::string gpu = "0000:01:00.0";
inline const std::string gpu_audio = "0000:01:00.1";
inline const std::string second_gpu = "0000:02:00.0";
inline const std::string second_gpu_audio = "0000:02:00.1";
inline const std::string nic = "0000:03:00.0";
inline const std::string usb = "0000:04:00.0";
inline const std::string nvme = "0000:00:18.0";
inline const std::string second_nvme = "0000:05:00.0";
inline const std::string no_reset = "0000:00:19.0";
/// On the machine amd only.
inline const std::string root_nic = "0000:00:1d.0";
inline const std::string lpc = "0000:00:1f.0";
inline const std::string sata = "0000:00:1f.2";
inline const std::string smbus = "0000:00:1f.3";
/// The bridges above them.
inline const std::string gpu_port = "0000:00:10.0";
inline const std::string second_gpu_port = "0000:00:11.0";
inline const std::string nic_port = "0000:00:12.0";
inline const std::string usb_port = "0000:00:13.0";
inline const std::string second_nvme_port = "0000:00:14.0";
inline const std::string empty_port = "0000:00:15.0";
}  // namespace device

/// Which machine of the lab this is; empty outside of the lab.
[[nodiscard]] std::string machine_name();

/// A small file without the newline at its end; empty if it cannot be read.
[[nodiscard]] std::string contents(const std::string& file);

/// Whether there is a PCI device at the address.
[[nodiscard]] bool is_there(const std::string& address);

/// An attribute of a PCI device.
[[nodiscard]] std::string attribute(const std::string& address, const std::string& name);

/// The driver of a PCI device; empty without one.
[[nodiscard]] std::string driver_of(const std::string& address);

/// Addresses of the PCI devices in the same IOMMU group, sorted; none without an IOMMU.
[[nodiscard]] std::vector<std::string> group_of(const std::string& address);

/// The monitor (QMP) of the QEMU that this machine runs in.
class OuterMachine {
 public:
  OuterMachine();

  /// What the command returns. Throws for an error or no answer in time.
  nlohmann::json execute(const std::string& command,
                         const nlohmann::json& arguments = nlohmann::json::object());

  /// The data of the next event of that name, those before it left out. Throws at the deadline.
  nlohmann::json wait_for(const std::string& event, double seconds = 30);

 private:
  nlohmann::json read_message(double seconds);

  base::UniqueFd port_;
  std::string unread_;
};

}  // namespace vmlaunch::tests
