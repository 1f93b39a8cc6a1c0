#include "tests/lab/device_vm.hpp"

#include <filesystem>

namespace vmlaunch::tests {

Json with_devices(Json config, const Json& pci) {
  config["pci"] = pci;
  config["cpu"] = {{"cores", 1}};
  return config;
}

Json nic_guest(const std::string& nic, const std::string& words) {
  return with_devices(guest_config(words), {{{"device", nic}, {"expect", "8086:10d3"}}});
}

Json probe_with(const Json& pci, const std::vector<std::string>& words) {
  return with_devices(probe_config(words), pci);
}

bool said(const Program& program, const std::string& text) {
  return program.output().find(text) != std::string::npos;
}

std::string vfio_node_of(const std::string& address) {
  const std::filesystem::path group =
      std::filesystem::read_symlink("/sys/bus/pci/devices/" + address + "/iommu_group");
  return "/dev/vfio/" + group.filename().string();
}

}  // namespace vmlaunch::tests
