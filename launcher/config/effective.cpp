#include "launcher/config/effective.hpp"

#include <array>

namespace vmlaunch::launcher::config {

namespace {

Json effective_pin(const Pin& pin) {
  switch (pin.kind) {
    case Pin::Kind::none:
      return "none";
    case Pin::Kind::automatic:
      return "auto";
    case Pin::Kind::set:
      return base::to_string(pin.set);
    case Pin::Kind::map:
      break;
  }
  Json seats = Json::array();
  for (const base::CpuSet& seat : pin.map) {
    seats.push_back(base::to_string(seat));
  }
  return seats;
}

Json or_auto(const std::optional<bool>& value) {
  return value ? Json(*value) : Json("auto");
}

Json effective_realtime(const std::optional<Realtime>& realtime) {
  if (!realtime) {
    return "auto";
  }
  if (realtime->policy == Policy::other) {
    return false;
  }
  return {{"policy", to_string(realtime->policy)},
          {"priority", realtime->priority},
          {"from", realtime->from_start ? "start" : "started"},
          {"force", realtime->force}};
}

Json effective_cpu(const VmSpec::Cpu& cpu) {
  Json json = {{"sockets", cpu.sockets},
               {"cores", cpu.cores},
               {"threads", cpu.threads},
               {"hide_hypervisor", cpu.hide_hypervisor},
               {"hyperv", cpu.hyperv.has_value()},
               {"pin", effective_pin(cpu.pin)},
               {"realtime", effective_realtime(cpu.realtime)},
               {"isolate", names_of(cpu.isolate)},
               {"weight", cpu.weight ? Json(*cpu.weight) : Json("auto")},
               {"halt_polling", cpu.halt_polling},
               {"power_management", or_auto(cpu.power_management)}};
  if (cpu.emulator) {
    json["emulator"] = base::to_string(*cpu.emulator);
  }
  if (cpu.model) {
    json["model"] = *cpu.model;
  }
  if (cpu.hyperv && (cpu.hyperv->vendor_id || !cpu.hyperv->without.empty())) {
    json["hyperv"] = {{"without", cpu.hyperv->without}};
  }
  if (cpu.hyperv && cpu.hyperv->vendor_id) {
    json["hyperv"]["vendor_id"] = *cpu.hyperv->vendor_id;
  }
  return json;
}

Json effective_disks(const VmSpec& spec) {
  Json disks = Json::array();
  for (const VmSpec::Disk& disk : spec.disks) {
    Json backing = Json::array();
    for (const VmSpec::Image& image : disk.backing) {
      backing.push_back({{"path", image.path}, {"format", to_string(image.format)}});
    }
    Json entry = {{"path", disk.path},
                  {"format", to_string(disk.format)},
                  {"backing", backing},
                  {"readonly", disk.readonly},
                  {"type", to_string(disk.type)},
                  {"bus", to_string(disk.bus)},
                  {"cache", to_string(disk.cache)},
                  {"aio", to_string(disk.aio)},
                  {"iothread", disk.iothread}};
    if (disk.serial) {
      entry["serial"] = *disk.serial;
    }
    disks.push_back(entry);
  }
  return disks;
}

Json effective_network(const VmSpec& spec) {
  Json network = Json::array();
  for (const VmSpec::Nic& nic : spec.network) {
    Json entry = {{"model", to_string(nic.model)}};
    if (nic.kind == NicKind::user) {
      Json forwards = Json::array();
      for (const PortForward& forward : nic.forwards) {
        forwards.push_back(to_string(forward));
      }
      entry["user"] = {{"forwards", forwards}};
    } else {
      entry[to_string(nic.kind)] = nic.link;
    }
    if (nic.mac) {
      entry["mac"] = nic.mac->text;
    }
    network.push_back(entry);
  }
  return network;
}

Json effective_selectors(const std::vector<PciSelector>& selectors) {
  Json texts = Json::array();
  for (const PciSelector& selector : selectors) {
    texts.push_back(to_string(selector));
  }
  return texts.size() == 1 ? texts.front() : texts;
}

Json effective_on_no_reset(const OnNoReset& on_no_reset) {
  if (on_no_reset.rungs.empty()) {
    return on_no_reset.refuse ? "refuse" : "warn";
  }
  Json rungs = Json::array();
  for (const ResetRung rung : on_no_reset.rungs) {
    rungs.push_back(to_string(rung));
  }
  return rungs;
}

Json effective_pci(const VmSpec& spec) {
  Json pci = Json::array();
  for (const VmSpec::Pci& device : spec.pci) {
    Json entry = {{"device", effective_selectors(device.device)},
                  {"functions", to_string(device.all_functions ? PciScope::all : PciScope::listed)},
                  {"group", to_string(device.whole_group ? PciScope::all : PciScope::listed)},
                  {"rombar", device.view.rombar},
                  {"x_vga", device.view.x_vga},
                  {"driver", to_string(device.driver)},
                  {"rescan", device.rescan},
                  {"on_no_reset", effective_on_no_reset(device.on_no_reset)},
                  {"release_timeout", base::to_string(device.release_timeout)}};
    if (device.view.rom) {
      entry["rom"] = *device.view.rom;
    }
    if (device.expect) {
      entry["expect"] = to_string(*device.expect);
    }
    pci.push_back(entry);
  }
  return pci;
}

const char* way_of(const UsbRule& rule) {
  static constexpr std::array kWays = {"device", "port", "address"};
  return kWays.at(rule.index());
}

Json effective_usb(const VmSpec& spec) {
  Json usb = Json::array();
  for (const VmSpec::Usb& entry : spec.usb) {
    usb.push_back({{way_of(entry.device), to_string(entry.device)}, {"optional", entry.optional}});
  }
  return usb;
}

Json effective_memory(const VmSpec::Memory& spec) {
  Json memory = {{"size", base::to_string(spec.size)}, {"locked", spec.locked}};
  if (!spec.nodes.empty()) {
    memory["node"] = spec.nodes;
  }
  if (spec.hugepages) {
    memory["hugepages"] = base::to_string(spec.hugepages->size);
    memory["fallback"] = to_string(spec.hugepages->fallback);
    memory["compact"] = spec.hugepages->compact;
    memory["drop_caches"] = spec.hugepages->drop_caches;
  }
  return memory;
}

Json effective_firmware(const VmSpec& spec) {
  Json firmware = {{"uefi", spec.uefi.has_value()}};
  if (spec.uefi) {
    firmware["vars"] = spec.uefi->vars;
    if (spec.uefi->code) {
      firmware["code"] = *spec.uefi->code;
    }
    if (spec.uefi->vars_template) {
      firmware["template"] = *spec.uefi->vars_template;
    }
  }
  return firmware;
}

Json effective_audio(const VmSpec::Audio& audio) {
  Json json = {{"backend", to_string(audio.backend)}, {"device", to_string(audio.device)}};
  if (audio.server) {
    json["server"] = *audio.server;
  }
  return json;
}

Json effective_display(const Display& display) {
  if (!display.is_server()) {
    return to_string(display.kind);
  }
  Json json = {{to_string(display.kind), to_string(display.address)}};
  if (display.kind == Display::Kind::spice) {
    json["usb_redirection"] = display.redirected;
  }
  return json;
}

Json effective_serial(const Serial& serial) {
  switch (serial.kind) {
    case Serial::Kind::none:
      return "none";
    case Serial::Kind::stdio:
      return "stdio";
    case Serial::Kind::file:
      return {{"file", serial.file}};
  }
  return nullptr;
}

}  // namespace

Json effective(const VmSpec& spec) {
  Json config = {
      {"name", spec.name},
      {"machine", to_string(spec.machine)},
      {"accel", to_string(spec.accel)},
      {"cpu", effective_cpu(spec.cpu)},
      {"memory", effective_memory(spec.memory)},
      {"module_parameters", spec.module_parameters},
      {"firmware", effective_firmware(spec)},
      {"disks", effective_disks(spec)},
      {"network", effective_network(spec)},
      {"pci", effective_pci(spec)},
      {"usb", effective_usb(spec)},
      {"video", to_string(spec.video)},
      {"single_gpu", spec.single_gpu},
      {"stop_units", spec.stop_units},
      {"hotplug", names_of(spec.hotplug)},
      {"serial", effective_serial(spec.serial)},
      {"rtc", {{"base", to_string(spec.rtc_base)}}},
      {"hpet", or_auto(spec.hpet)},
      {"on_reboot", to_string(spec.on_reboot)},
      {"qemu", {{"binary", spec.qemu_binary}, {"extra_args", spec.extra_args}}},
      {"sandbox", to_string(spec.sandbox)},
      {"stop", {{"timeout", base::to_string(spec.stop_timeout)}}},
  };
  if (spec.audio) {
    config["audio"] = effective_audio(*spec.audio);
  }
  if (spec.linux_boot) {
    config["kernel"] = spec.linux_boot->kernel;
    config["append"] = spec.linux_boot->append;
    if (spec.linux_boot->initrd) {
      config["initrd"] = *spec.linux_boot->initrd;
    }
  }
  config["display"] = effective_display(spec.display);
  if (spec.run_as) {
    config["run_as"] = *spec.run_as;
  }
  return config;
}

}  // namespace vmlaunch::launcher::config
