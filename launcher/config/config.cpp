#include "launcher/config/config.hpp"

#include <string_view>
#include <utility>

#include "launcher/config/reader.hpp"

namespace vmlaunch::launcher::config {

namespace {

template <typename Enum>
using Names = std::vector<std::pair<const char*, Enum>>;

const Names<Machine>& machine_names() {
  static const Names<Machine> names = {{"q35", Machine::q35}, {"pc", Machine::pc}};
  return names;
}

const Names<Accel>& accel_names() {
  static const Names<Accel> names = {
      {"auto", Accel::automatic}, {"kvm", Accel::kvm}, {"tcg", Accel::tcg}};
  return names;
}

const Names<DiskFormat>& format_names() {
  static const Names<DiskFormat> names = {{"raw", DiskFormat::raw}, {"qcow2", DiskFormat::qcow2}};
  return names;
}

const Names<NicModel>& nic_names() {
  static const Names<NicModel> names = {{"virtio", NicModel::virtio}, {"e1000e", NicModel::e1000e}};
  return names;
}

const Names<NicKind>& kind_names() {
  static const Names<NicKind> names = {{"user", NicKind::user},
                                       {"bridge", NicKind::bridge},
                                       {"tap", NicKind::tap},
                                       {"macvtap", NicKind::macvtap}};
  return names;
}

const Names<PciScope>& scope_names() {
  static const Names<PciScope> names = {{"listed", PciScope::listed}, {"all", PciScope::all}};
  return names;
}

template <typename Enum>
const char* name_of(const Names<Enum>& names, Enum value) {
  for (const auto& [name, meaning] : names) {
    if (meaning == value) {
      return name;
    }
  }
  return "";
}

void read_cpu(ObjectReader& reader, Config::Cpu& cpu) {
  cpu.model = reader.text("model");
  cpu.sockets = reader.number("sockets", 1, 255);
  cpu.cores = reader.number("cores", 1, 255);
  cpu.threads = reader.number("threads", 1, 255);
}

void read_firmware(ObjectReader& reader, Config::Firmware& firmware) {
  firmware.uefi = reader.boolean("uefi");
  firmware.vars = reader.text("vars");
  firmware.code = reader.text("code");
  firmware.vars_template = reader.text("template");
}

Config::Disk read_disk(ObjectReader& reader) {
  Config::Disk disk;
  disk.path = reader.text("path");
  disk.format = reader.choice("format", format_names());
  disk.readonly = reader.boolean("readonly");
  return disk;
}

std::vector<std::optional<PortForward>> read_forwards(ObjectReader& reader) {
  std::vector<std::optional<PortForward>> forwards;
  const std::vector<std::optional<std::string>> texts = reader.texts("forwards");
  for (std::size_t i = 0; i < texts.size(); ++i) {
    forwards.push_back(texts[i] ? parse_port_forward(*texts[i]) : std::nullopt);
    if (texts[i] && !forwards.back()) {
      reader.issues().push_back(
          {child(child(reader.pointer(), "forwards"), i),
           "expected a forward such as \"tcp:127.0.0.1:2222:22\" (host port, then the guest's), "
           "found \"" +
               *texts[i] + "\""});
    }
  }
  return forwards;
}

std::optional<std::string> parse_link_name(std::string_view text) {
  return is_link_name(text) ? std::optional(std::string(text)) : std::nullopt;
}

Config::Nic read_nic(ObjectReader& reader) {
  Config::Nic nic;
  for (const auto& [name, kind] : kind_names()) {
    if (reader.raw(name) == nullptr) {
      continue;
    }
    nic.kinds.push_back(kind);
    if (kind == NicKind::user) {
      reader.object(name, [&](ObjectReader& user) { nic.forwards = read_forwards(user); });
    } else {
      nic.link =
          reader.value(name,
                       parse_link_name,
                       "a network link's name: 1 to 15 letters, digits, \".\", \"_\" or \"-\"");
    }
  }
  nic.model = reader.choice("model", nic_names());
  nic.mac =
      reader.value("mac", parse_mac_address, "a unicast MAC address such as \"52:54:00:00:00:01\"");
  return nic;
}

Config::Pci read_pci(ObjectReader& reader) {
  Config::Pci pci;
  pci.device =
      reader.value("device", base::parse_pci_address, "a PCI address such as \"0000:04:00.0\"");
  pci.functions = reader.choice("functions", scope_names());
  pci.group = reader.choice("group", scope_names());
  pci.expect = reader.value("expect", parse_pci_ids, "vendor and device such as \"10de:1b81\"");
  return pci;
}

void require(ObjectReader& reader, const char* key, const std::string& what) {
  if (reader.raw(key) == nullptr) {
    reader.report(key, "missing: " + what);
  }
}

/// "none", or an object.
std::optional<Display> read_display(ObjectReader& reader) {
  const Json* value = reader.raw("display");
  if (value == nullptr) {
    return std::nullopt;
  }
  if (*value == "none") {
    return Display{};
  }
  if (!value->is_object()) {
    reader.report("display",
                  "expected \"none\" or {\"vnc\": \"127.0.0.1:5900\"}, found " + type_of(*value));
    return std::nullopt;
  }
  Display display;
  reader.object("display", [&](ObjectReader& object) {
    display.vnc = object.value("vnc", parse_endpoint, "an address such as \"127.0.0.1:5900\"");
    require(object, "vnc", "the address, such as \"127.0.0.1:5900\"");
  });
  return display;
}

/// "none", "stdio", or an object.
std::optional<Serial> read_serial(ObjectReader& reader) {
  const Json* value = reader.raw("serial");
  if (value == nullptr) {
    return std::nullopt;
  }
  if (*value == "none") {
    return Serial{};
  }
  if (*value == "stdio") {
    return Serial{Serial::Kind::stdio, {}};
  }
  if (!value->is_object()) {
    reader.report("serial",
                  "expected \"none\", \"stdio\" or {\"file\": PATH}, found " + type_of(*value));
    return std::nullopt;
  }
  Serial serial{Serial::Kind::file, {}};
  reader.object("serial", [&](ObjectReader& object) {
    serial.file = object.text("file").value_or("");
    require(object, "file", "the file that the guest's output is added to");
  });
  return serial;
}

void read_network(ObjectReader& reader, Config& config) {
  const Json* value = reader.raw("network");
  if (value == nullptr || *value == "none") {
    return;
  }
  if (!value->is_array()) {
    reader.report("network", "expected \"none\" or an array of objects, found " + type_of(*value));
    return;
  }
  reader.objects("network", [&](ObjectReader& nic) { config.network.push_back(read_nic(nic)); });
}

/// A user's name, or a uid as a number.
std::optional<std::string> read_run_as(ObjectReader& reader) {
  const Json* value = reader.raw("run_as");
  if (value == nullptr || value->is_string()) {
    return reader.text("run_as");
  }
  if (!value->is_number_unsigned()) {
    reader.report("run_as", "expected a user's name or uid, found " + type_of(*value));
    return std::nullopt;
  }
  return value->dump();
}

}  // namespace

const char* to_string(Machine machine) {
  return name_of(machine_names(), machine);
}
const char* to_string(Accel accel) {
  return name_of(accel_names(), accel);
}
const char* to_string(DiskFormat format) {
  return name_of(format_names(), format);
}
const char* to_string(NicModel model) {
  return name_of(nic_names(), model);
}
const char* to_string(NicKind kind) {
  return name_of(kind_names(), kind);
}
const char* to_string(PciScope scope) {
  return name_of(scope_names(), scope);
}

Config parse(const Document& document, std::vector<Issue>& issues) {
  Config config;
  ObjectReader reader(document.root(), "", issues);
  static_cast<void>(reader.text("$schema"));
  config.name = reader.text("name");
  config.machine = reader.choice("machine", machine_names());
  config.accel = reader.choice("accel", accel_names());
  reader.object("cpu", [&](ObjectReader& cpu) { read_cpu(cpu, config.cpu); });
  reader.object("memory", [&](ObjectReader& memory) {
    config.memory_size =
        memory.value("size", base::parse_byte_size, "a size such as \"512M\" or \"12G\"");
  });
  config.kernel = reader.text("kernel");
  config.initrd = reader.text("initrd");
  config.append = reader.text("append");
  reader.object("firmware",
                [&](ObjectReader& firmware) { read_firmware(firmware, config.firmware); });
  reader.objects("disks", [&](ObjectReader& disk) { config.disks.push_back(read_disk(disk)); });
  read_network(reader, config);
  reader.objects("pci", [&](ObjectReader& pci) { config.pci.push_back(read_pci(pci)); });
  config.display = read_display(reader);
  config.serial = read_serial(reader);
  reader.object("qemu", [&](ObjectReader& qemu) {
    config.qemu.binary = qemu.text("binary");
    for (const auto& argument : qemu.texts("extra_args")) {
      config.qemu.extra_args.push_back(argument.value_or(""));
    }
  });
  config.run_as = read_run_as(reader);
  reader.object("stop", [&](ObjectReader& stop) {
    config.stop_timeout =
        stop.value("timeout", base::parse_duration, "a time such as \"60s\" or \"2m\"");
  });
  reader.finish();
  return config;
}

}  // namespace vmlaunch::launcher::config
