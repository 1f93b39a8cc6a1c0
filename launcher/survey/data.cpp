#include <algorithm>

#include "base/text.hpp"
#include "launcher/survey/print.hpp"
#include "launcher/survey/reset.hpp"

namespace vmlaunch::launcher::survey {

namespace {

using base::hex;
using nlohmann::json;

template <typename Value>
json or_null(const std::optional<Value>& value) {
  return value ? json(*value) : json();
}

json or_null(const std::optional<base::ByteSize>& size) {
  return size ? json(size->bytes) : json();
}

json or_null(const std::optional<base::PciAddress>& address) {
  return address ? json(to_string(*address)) : json();
}

json or_null(const std::string& text) {
  return text.empty() ? json() : json(text);
}

json data_of(const std::vector<Bar>& bars) {
  json list = json::array();
  for (const Bar& bar : bars) {
    json sizes = json::array();
    for (const base::ByteSize size : bar.sizes) {
      sizes.push_back(size.bytes);
    }
    list.push_back({{"number", bar.number},
                    {"start", "0x" + hex(bar.start, 16)},
                    {"size", bar.size.bytes},
                    {"kind", bar.is_memory ? "memory" : "ports"},
                    {"64bit", bar.is_64bit},
                    {"prefetchable", bar.is_prefetchable},
                    {"resizable_to", sizes}});
  }
  return list;
}

json data_of(const PciFunction& function, const Pci& pci, const PciNames& names) {
  const auto kind = static_cast<std::uint16_t>(function.class_code >> 8U);
  return {
      {"address", to_string(function.address)},
      {"group", or_null(function.iommu_group)},
      {"class", hex(function.class_code, 6)},
      {"class_name", or_null(names.device_class(kind))},
      {"vendor", hex(function.vendor, 4)},
      {"vendor_name", or_null(names.vendor(function.vendor))},
      {"device", hex(function.device, 4)},
      {"device_name", or_null(names.device(function.vendor, function.device))},
      {"revision", hex(function.revision, 2)},
      {"driver", or_null(function.driver)},
      {"bridge", or_null(function.bridge)},
      {"reset_methods", function.reset_methods},
      {"reset", function.is_fabric() ? json() : json(to_string(reset_outlook(pci, function).kind))},
      {"boot_vga", function.boot_vga},
      {"node", or_null(function.numa_node)},
      {"virtual_function_of", or_null(function.physical)},
      {"virtual_functions", function.virtual_count},
      {"virtual_functions_possible", function.virtual_total},
      {"bars", data_of(function.bars)}};
}

json data_of(const UsbDevice& device) {
  json interfaces = json::array();
  for (const UsbInterface& interface : device.interfaces) {
    interfaces.push_back({{"name", interface.name},
                          {"class", hex(interface.class_code, 6)},
                          {"driver", or_null(interface.driver)}});
  }
  return {{"port", device.name()},
          {"number", device.number},
          {"ids", to_string(device.ids)},
          {"manufacturer", or_null(base::printable(device.manufacturer))},
          {"product", or_null(base::printable(device.product))},
          {"speed", or_null(device.speed)},
          {"class", hex(device.device_class, 2)},
          {"hub", device.is_hub()},
          {"interfaces", interfaces}};
}

json data_of(const Usb& usb) {
  json buses = json::array();
  for (const UsbBus& bus : usb.buses) {
    json devices = json::array();
    for (const UsbDevice& device : bus.devices) {
      devices.push_back(data_of(device));
    }
    buses.push_back({{"number", bus.number},
                     {"controller", or_null(bus.controller)},
                     {"speed", or_null(bus.speed)},
                     {"ports", bus.ports},
                     {"devices", devices}});
  }
  return buses;
}

json data_of(const Cpu& cpu) {
  const json cache = cpu.cache ? json{{"level", cpu.cache->level},
                                      {"size", cpu.cache->size.bytes},
                                      {"cpus", base::to_string(cpu.cache->cpus)}}
                               : json();
  return {{"number", cpu.number},
          {"online", cpu.online},
          {"socket", or_null(cpu.socket)},
          {"die", or_null(cpu.die)},
          {"core", or_null(cpu.core)},
          {"siblings", base::to_string(cpu.siblings)},
          {"cache", cache},
          {"node", or_null(cpu.node)},
          {"kind", cpu.kind ? json(to_string(*cpu.kind)) : json()},
          {"max_khz", or_null(cpu.max_khz)},
          {"governor", or_null(cpu.governor)}};
}

json data_of(const Cpus& cpus) {
  json list = json::array();
  for (const Cpu& cpu : cpus.list) {
    list.push_back(data_of(cpu));
  }
  return {{"model", or_null(cpus.model)},
          {"list", list},
          {"isolated", base::to_string(cpus.isolated)},
          {"nohz_full", base::to_string(cpus.nohz_full)},
          {"rcu_nocbs", base::to_string(cpus.rcu_nocbs)}};
}

json data_of(const std::vector<HugePages>& pools) {
  json list = json::array();
  for (const HugePages& pool : pools) {
    list.push_back({{"size", pool.size.bytes},
                    {"total", pool.total},
                    {"free", pool.free},
                    {"surplus", pool.surplus}});
    if (pool.reserved) {
      list.back()["reserved"] = *pool.reserved;
    }
  }
  return list;
}

json data_of(const Memory& memory) {
  json nodes = json::array();
  for (const Node& node : memory.nodes) {
    nodes.push_back({{"number", node.number},
                     {"cpus", base::to_string(node.cpus)},
                     {"total", or_null(node.total)},
                     {"free", or_null(node.free)},
                     {"distances", node.distances},
                     {"huge_pages", data_of(node.pools)}});
  }
  return {{"total", or_null(memory.total)},
          {"available", or_null(memory.available)},
          {"overcommit", or_null(memory.overcommit)},
          {"transparent_huge_pages", or_null(memory.transparent)},
          {"huge_pages", data_of(memory.pools)},
          {"nodes", nodes}};
}

json data_of(const Kernel& kernel) {
  json modules = json::object();
  for (const Module& module : kernel.modules) {
    modules[module.name] = json(module.parameters);
  }
  return {{"release", or_null(kernel.release)},
          {"command_line", or_null(kernel.command_line)},
          {"lockdown", or_null(kernel.lockdown)},
          {"modules", modules}};
}

json data_of(const Cgroup& cgroup) {
  return {{"controllers", cgroup.controllers}, {"usable", or_null(cgroup.usable)}};
}

}  // namespace

json to_json(const Host& host, const PciNames& names) {
  json devices = json::array();
  for (const PciFunction& function : host.pci.functions) {
    devices.push_back(data_of(function, host.pci, names));
  }
  return {{"iommu", or_null(host.pci.has_iommu())},
          {"advice", host.pci.iommu_advice()},
          {"iommu_table", or_null(host.pci.iommu_setup.table)},
          {"devices", devices},
          {"usb", data_of(host.usb)},
          {"cpus", data_of(host.cpus)},
          {"memory", data_of(host.memory)},
          {"kernel", data_of(host.kernel)},
          {"kvm", {{"node", host.kvm.node}}},
          {"cgroup", host.cgroup ? data_of(*host.cgroup) : json()},
          {"unseen", host.unseen}};
}

}  // namespace vmlaunch::launcher::survey
