#include "tests/lab/device_vm.hpp"

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "tests/support/catch.hpp"

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

Made::Made(const std::string& make, std::string remove) : remove_(std::move(remove)) {
  INFO(make);
  REQUIRE(std::system(make.c_str()) == 0);
}

Made::~Made() {
  CHECK(std::system(remove_.c_str()) == 0);
}

Made a_bridge() {
  return {
      "modprobe -a tun vhost_net && ip link add br0 address 52:54:00:aa:00:01 type bridge && "
      "ip link set br0 mtu 1400 up && ip addr add 10.0.2.2/24 dev br0",
      "ip link del br0"};
}

std::string link_of(const std::string& nic) {
  return std::filesystem::directory_iterator("/sys/bus/pci/devices/" + nic + "/net")
      ->path()
      .filename();
}

}  // namespace vmlaunch::tests
