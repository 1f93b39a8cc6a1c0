#include "launcher/steps/vfio.hpp"

#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/errors.hpp"
#include "base/text.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using base::PciAddress;

/// What a bus can have below it, and more than any card has.
constexpr std::size_t kMostTogether = 256;

base::UniqueFd open_node(const base::Tree& tree, const std::string& node) {
  base::UniqueFd fd = tree.open(node, O_RDWR);
  if (!fd) {
    base::throw_errno("open " + node);
  }
  return fd;
}

PciAddress address_of(const vfio_pci_dependent_device& device) {
  return {device.segment,
          device.bus,
          static_cast<std::uint8_t>(device.devfn >> 3U),
          static_cast<std::uint8_t>(device.devfn & 7U)};
}

/// Nothing where vfio has no hot reset (ENODEV: the bus is a root bus).
std::vector<PciAddress> ask_together(int device) {
  std::array<std::uint32_t,
             (sizeof(vfio_pci_hot_reset_info) + kMostTogether * sizeof(vfio_pci_dependent_device)) /
                 sizeof(std::uint32_t)>
      buffer{};
  buffer[0] = sizeof buffer;
  if (::ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, buffer.data()) != 0) {
    if (errno == ENODEV) {
      return {};
    }
    base::throw_errno("ask vfio for the hot reset");
  }
  const std::size_t count = std::min<std::size_t>(buffer[2], kMostTogether);
  std::vector<PciAddress> together;
  together.reserve(count);
  const auto* bytes = reinterpret_cast<const char*>(buffer.data());
  for (std::size_t i = 0; i < count; ++i) {
    vfio_pci_dependent_device one{};
    std::memcpy(&one, bytes + sizeof(vfio_pci_hot_reset_info) + i * sizeof one, sizeof one);
    together.push_back(address_of(one));
  }
  return together;
}

std::string group_number(const base::Tree& tree, const PciAddress& function) {
  return tree.link_name("/sys/bus/pci/devices/" + base::to_string(function) + "/iommu_group")
      .value_or("");
}

PciAddress read_one(const std::string& text) {
  const auto address = base::parse_pci_address(text);
  if (!address) {
    throw FormError("not a PCI address");
  }
  return *address;
}

}  // namespace

Vfio::Vfio(const base::Tree& tree, const std::vector<PciAddress>& functions)
    : container_(open_node(tree, "/dev/vfio/vfio")) {
  for (const PciAddress& function : functions) {
    const std::string number = group_number(tree, function);
    auto group = std::find_if(
        groups_.begin(), groups_.end(), [&](const Group& known) { return known.number == number; });
    if (group == groups_.end()) {
      base::UniqueFd fd = open_node(tree, "/dev/vfio/" + number);
      const int container = container_.get();
      base::check(::ioctl(fd.get(), VFIO_GROUP_SET_CONTAINER, &container),
                  "use the IOMMU group " + number);
      groups_.push_back({number, std::move(fd)});
      group = groups_.end() - 1;
    }
    group_of_.emplace_back(function, group - groups_.begin());
  }
  base::check(::ioctl(container_.get(), VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "choose vfio's IOMMU");
}

base::UniqueFd Vfio::open(const PciAddress& function) const {
  const auto known = std::find_if(group_of_.begin(), group_of_.end(), [&](const auto& entry) {
    return entry.first == function;
  });
  if (known == group_of_.end()) {
    base::throw_errno(EINVAL, "open " + base::to_string(function));
  }
  const std::string name = base::to_string(function);
  return base::UniqueFd(
      base::check(::ioctl(groups_[known->second].fd.get(), VFIO_GROUP_GET_DEVICE_FD, name.c_str()),
                  "open " + name + " by vfio"));
}

VfioReset Vfio::ask(const PciAddress& function) const {
  const base::UniqueFd device = open(function);
  vfio_device_info info{};
  info.argsz = sizeof info;
  base::check(::ioctl(device.get(), VFIO_DEVICE_GET_INFO, &info), "ask vfio for the device");
  return {function, (info.flags & VFIO_DEVICE_FLAGS_RESET) != 0, ask_together(device.get())};
}

void Vfio::hot_reset(const PciAddress& function) const {
  const base::UniqueFd device = open(function);
  std::vector<std::uint32_t> request(sizeof(vfio_pci_hot_reset) / sizeof(std::uint32_t));
  for (const Group& group : groups_) {
    request.push_back(static_cast<std::uint32_t>(group.fd.get()));
  }
  request[0] = static_cast<std::uint32_t>(request.size() * sizeof(std::uint32_t));
  request[2] = static_cast<std::uint32_t>(groups_.size());
  base::check(::ioctl(device.get(), VFIO_DEVICE_PCI_HOT_RESET, request.data()),
              "reset the bus of " + base::to_string(function));
}

std::string find_open_group(const base::Tree& tree, const std::vector<PciAddress>& functions) {
  for (const PciAddress& function : functions) {
    const std::string number = group_number(tree, function);
    // The group is its opener's alone (vfio_group_fops_open(), drivers/vfio).
    if (!number.empty() && !tree.open("/dev/vfio/" + number, O_RDWR) && errno == EBUSY) {
      return number;
    }
  }
  return "";
}

Json to_json(const std::vector<VfioReset>& answers) {
  Json list = Json::array();
  for (const VfioReset& answer : answers) {
    Json together = Json::array();
    for (const PciAddress& address : answer.together) {
      together.push_back(base::to_string(address));
    }
    list.push_back({{"device", base::to_string(answer.device)},
                    {"alone", answer.alone},
                    {"together", together}});
  }
  return list;
}

std::vector<VfioReset> read_vfio_resets(const Json& json) {
  if (!json.is_array()) {
    throw FormError("not a list of answers");
  }
  std::vector<VfioReset> answers;
  for (const Json& one : json) {
    Fields fields(one);
    VfioReset answer{read_one(fields.text("device")), fields.boolean("alone"), {}};
    for (const std::string& text : fields.texts("together")) {
      answer.together.push_back(read_one(text));
    }
    fields.finish();
    answers.push_back(std::move(answer));
  }
  return answers;
}

}  // namespace vmlaunch::launcher::steps
