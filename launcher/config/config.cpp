#include "launcher/config/config.hpp"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "launcher/config/read_cpu.hpp"
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

const Names<DiskBus>& bus_names() {
  static const Names<DiskBus> names = {{"virtio-blk", DiskBus::virtio_blk},
                                       {"virtio-scsi", DiskBus::virtio_scsi},
                                       {"sata", DiskBus::sata}};
  return names;
}

const Names<DiskType>& type_names() {
  static const Names<DiskType> names = {{"disk", DiskType::disk}, {"cdrom", DiskType::cdrom}};
  return names;
}

const Names<DiskCache>& cache_names() {
  static const Names<DiskCache> names = {{"writeback", DiskCache::writeback},
                                         {"none", DiskCache::none},
                                         {"writethrough", DiskCache::writethrough},
                                         {"unsafe", DiskCache::unsafe}};
  return names;
}

const Names<DiskAio>& aio_names() {
  static const Names<DiskAio> names = {
      {"threads", DiskAio::threads}, {"native", DiskAio::native}, {"io_uring", DiskAio::io_uring}};
  return names;
}

const Names<NicModel>& nic_names() {
  static const Names<NicModel> names = {{"virtio", NicModel::virtio}, {"e1000e", NicModel::e1000e}};
  return names;
}

const Names<Video>& video_names() {
  static const Names<Video> names = {
      {"none", Video::none}, {"vga", Video::vga}, {"qxl", Video::qxl}, {"virtio", Video::virtio}};
  return names;
}

const Names<Display::Kind>& display_names() {
  static const Names<Display::Kind> names = {{"none", Display::Kind::none},
                                             {"vnc", Display::Kind::vnc},
                                             {"spice", Display::Kind::spice},
                                             {"gtk", Display::Kind::gtk},
                                             {"sdl", Display::Kind::sdl}};
  return names;
}

const Names<AudioBackend>& audio_names() {
  static const Names<AudioBackend> names = {{"none", AudioBackend::none},
                                            {"pa", AudioBackend::pulse},
                                            {"pipewire", AudioBackend::pipewire}};
  return names;
}

const Names<AudioDevice>& audio_device_names() {
  static const Names<AudioDevice> names = {{"hda", AudioDevice::hda},
                                           {"hda-micro", AudioDevice::hda_micro}};
  return names;
}

const Names<RtcBase>& rtc_names() {
  static const Names<RtcBase> names = {{"utc", RtcBase::utc}, {"localtime", RtcBase::localtime}};
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

const Names<MemoryFallback>& fallback_names() {
  static const Names<MemoryFallback> names = {{"none", MemoryFallback::none},
                                              {"smaller", MemoryFallback::smaller}};
  return names;
}

/// What guests need of the host's modules, and harms nobody else.
constexpr std::array kModuleParameters = {"kvm.ignore_msrs", "kvm.report_ignored_msrs"};

const Names<PciTaker>& taker_names() {
  static const Names<PciTaker> names = {{kVfioDriver, PciTaker::vfio},
                                        {kStubDriver, PciTaker::stub}};
  return names;
}

const Names<OnReboot>& reboot_names() {
  static const Names<OnReboot> names = {{"reset", OnReboot::reset}, {"restart", OnReboot::restart}};
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

void require(ObjectReader& reader, const char* key, const std::string& what) {
  if (reader.raw(key) == nullptr) {
    reader.report(key, "missing: " + what);
  }
}

/// One node, or an array of them.
void read_nodes(ObjectReader& reader, Config::Memory& memory) {
  const Json* value = reader.raw("node");
  if (value == nullptr || !value->is_array()) {
    memory.node = reader.number("node", 0, kMostNodes - 1);
    return;
  }
  memory.nodes = reader.numbers("node", 0, kMostNodes - 1);
  if (memory.nodes.empty()) {
    reader.report("node", "expected at least one node");
  }
}

void read_memory(ObjectReader& reader, Config::Memory& memory) {
  memory.size = reader.value("size", base::parse_byte_size, "a size such as \"512M\" or \"12G\"");
  memory.hugepages =
      reader.value("hugepages", base::parse_byte_size, "a size such as \"2M\" or \"1G\"");
  read_nodes(reader, memory);
  memory.fallback = reader.choice("fallback", fallback_names());
  memory.compact = reader.boolean("compact");
  memory.drop_caches = reader.boolean("drop_caches");
  memory.locked = reader.boolean("locked");
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
  reader.objects("backing", [&](ObjectReader& image) {
    disk.backing.push_back({image.text("path"), image.choice("format", format_names())});
  });
  disk.readonly = reader.boolean("readonly");
  disk.type = reader.choice("type", type_names());
  disk.bus = reader.choice("bus", bus_names());
  disk.cache = reader.choice("cache", cache_names());
  disk.aio = reader.choice("aio", aio_names());
  disk.iothread = reader.boolean("iothread");
  disk.serial = reader.value("serial", parse_disk_serial, "1 to 20 printable ASCII characters");
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

/// One text, or an array of texts.
std::vector<PciSelector> read_selectors(ObjectReader& reader) {
  static constexpr const char* kExpected =
      "a PCI address such as \"0000:04:00.0\", a slot (\"04:00\"), ids (\"10de:1b81\") or a class "
      "(\"class:0300\")";
  std::vector<PciSelector> selectors;
  const Json* value = reader.raw("device");
  if (value == nullptr || !value->is_array()) {
    if (const auto one = reader.value("device", parse_pci_selector, kExpected)) {
      selectors.push_back(*one);
    }
    return selectors;
  }
  if (value->empty()) {
    reader.report("device", "an empty array names no device");
  }
  const std::vector<std::optional<std::string>> texts = reader.texts("device");
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (!texts[i]) {
      continue;
    }
    if (const auto one = parse_pci_selector(*texts[i])) {
      selectors.push_back(*one);
    } else {
      reader.issues().push_back(
          {child(child(reader.pointer(), "device"), i),
           std::string("expected ") + kExpected + ", found \"" + *texts[i] + "\""});
    }
  }
  return selectors;
}

std::optional<OnNoReset> read_on_no_reset(ObjectReader& reader) {
  const Json* value = reader.raw("on_no_reset");
  if (value == nullptr) {
    return std::nullopt;
  }
  if (value->is_array()) {
    const std::vector<ResetRung> rungs = reader.choices("on_no_reset", rung_names());
    return OnNoReset{false, {rungs.begin(), rungs.end()}};
  }
  const auto refuse = reader.choice<bool>("on_no_reset", {{"warn", false}, {"refuse", true}});
  return refuse ? std::optional(OnNoReset{*refuse}) : std::nullopt;
}

Config::Pci read_pci(ObjectReader& reader) {
  Config::Pci pci;
  pci.device = read_selectors(reader);
  pci.functions = reader.choice("functions", scope_names());
  pci.group = reader.choice("group", scope_names());
  pci.expect = reader.value("expect", parse_pci_ids, "vendor and device such as \"10de:1b81\"");
  pci.rom = reader.text("rom");
  pci.rombar = reader.boolean("rombar");
  pci.x_vga = reader.boolean("x_vga");
  pci.release_timeout =
      reader.value("release_timeout", base::parse_duration, "a time such as \"15s\" or \"2m\"");
  pci.driver = reader.choice("driver", taker_names());
  pci.rescan = reader.boolean("rescan");
  pci.on_no_reset = read_on_no_reset(reader);
  return pci;
}

Config::Usb read_usb(ObjectReader& reader) {
  Config::Usb usb;
  const auto read = [&](const char* key, auto parse, const char* expected) {
    if (reader.raw(key) == nullptr) {
      return;
    }
    usb.ways.push_back(key);
    if (const auto device = reader.value(key, parse, expected)) {
      usb.device = *device;
    }
  };
  read("device", parse_usb_ids, "vendor and product such as \"046d:c051\"");
  read("port", parse_usb_port, "a USB port such as \"1-2.3\"");
  read("address", parse_usb_address, "bus and device number such as \"1:4\"");
  usb.optional = reader.boolean("optional");
  return usb;
}

Config::Audio read_audio(ObjectReader& reader) {
  Config::Audio audio;
  audio.backend = reader.choice("backend", audio_names());
  audio.device = reader.choice("device", audio_device_names());
  audio.server = reader.text("server");
  require(reader, "backend", "\"none\", \"pa\" or \"pipewire\"");
  return audio;
}

/// A VNC or a SPICE server.
Display read_server(ObjectReader& reader) {
  Display display;
  const bool is_vnc = reader.raw("vnc") != nullptr;
  const bool is_spice = reader.raw("spice") != nullptr;
  if (is_spice && is_vnc) {
    reader.report("spice", "a screen has one server, and this one has \"vnc\" already");
  }
  for (const Display::Kind kind : {Display::Kind::vnc, Display::Kind::spice}) {
    const auto address =
        reader.value(to_string(kind), parse_endpoint, "an address such as \"127.0.0.1:5900\"");
    if (address) {
      display.kind = kind;
      display.address = *address;
    }
  }
  if (!is_spice) {
    require(reader, "vnc", "the address, such as \"127.0.0.1:5900\"");
  }
  const auto redirected = reader.number("usb_redirection", 0, kMostRedirected);
  if (redirected && !is_spice) {
    reader.report("usb_redirection", "given without \"spice\"");
  }
  display.redirected = redirected.value_or(0);
  return display;
}

/// A word, or an object.
std::optional<Display> read_display(ObjectReader& reader) {
  const Json* value = reader.raw("display");
  if (value == nullptr) {
    return std::nullopt;
  }
  for (const auto& [name, kind] : display_names()) {
    const Display display{kind, {}, 0};
    if (*value == name && !display.is_server()) {
      return display;
    }
  }
  if (!value->is_object()) {
    reader.report("display",
                  "expected \"none\", \"gtk\", \"sdl\", {\"vnc\": \"127.0.0.1:5900\"} or "
                  "{\"spice\": \"127.0.0.1:5930\"}, found " +
                      type_of(*value));
    return std::nullopt;
  }
  Display display;
  reader.object("display", [&](ObjectReader& object) { display = read_server(object); });
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

const Names<Sandbox>& sandbox_names() {
  static const Names<Sandbox> names = {
      {"on", Sandbox::on}, {"log", Sandbox::log}, {"off", Sandbox::off}};
  return names;
}

const Names<Hotplug>& hotplug_names() {
  static const Names<Hotplug> names = {
      {"usb", Hotplug::usb}, {"disk", Hotplug::disk}, {"pci", Hotplug::pci}, {"net", Hotplug::net}};
  return names;
}

const char* to_string(Machine machine) {
  return name_of(machine_names(), machine);
}
const char* to_string(Accel accel) {
  return name_of(accel_names(), accel);
}
const char* to_string(DiskFormat format) {
  return name_of(format_names(), format);
}
const char* to_string(DiskBus bus) {
  return name_of(bus_names(), bus);
}
const char* to_string(DiskType type) {
  return name_of(type_names(), type);
}
const char* to_string(DiskCache cache) {
  return name_of(cache_names(), cache);
}
const char* to_string(DiskAio aio) {
  return name_of(aio_names(), aio);
}
const char* to_string(NicModel model) {
  return name_of(nic_names(), model);
}
const char* to_string(Video video) {
  return name_of(video_names(), video);
}
const char* to_string(AudioBackend backend) {
  return name_of(audio_names(), backend);
}
const char* to_string(AudioDevice device) {
  return name_of(audio_device_names(), device);
}
const char* to_string(RtcBase base) {
  return name_of(rtc_names(), base);
}
const char* to_string(Sandbox sandbox) {
  return name_of(sandbox_names(), sandbox);
}
std::vector<std::string> names_of(const std::set<Hotplug>& kinds) {
  std::vector<std::string> names;
  names.reserve(kinds.size());
  for (const Hotplug kind : kinds) {
    names.emplace_back(name_of(hotplug_names(), kind));
  }
  return names;
}
const char* to_string(Display::Kind kind) {
  return name_of(display_names(), kind);
}
const char* to_string(NicKind kind) {
  return name_of(kind_names(), kind);
}
const char* to_string(PciScope scope) {
  return name_of(scope_names(), scope);
}
const char* to_string(PciTaker taker) {
  return name_of(taker_names(), taker);
}

const char* to_string(OnReboot on_reboot) {
  return name_of(reboot_names(), on_reboot);
}

const char* to_string(ResetRung rung) {
  return name_of(rung_names(), rung);
}

const Names<ResetRung>& rung_names() {
  static const Names<ResetRung> names = {{"rescan", ResetRung::rescan},
                                         {"bridge", ResetRung::bridge}};
  return names;
}

const char* to_string(MemoryFallback fallback) {
  return name_of(fallback_names(), fallback);
}

bool is_module_parameter(std::string_view name) {
  return std::find(kModuleParameters.begin(), kModuleParameters.end(), name) !=
         kModuleParameters.end();
}

Config parse(const Document& document, std::vector<Issue>& issues) {
  Config config;
  ObjectReader reader(document.root(), "", issues);
  static_cast<void>(reader.text("$schema"));
  config.name = reader.text("name");
  config.machine = reader.choice("machine", machine_names());
  config.accel = reader.choice("accel", accel_names());
  reader.object("cpu", [&](ObjectReader& cpu) { read_cpu(cpu, config.cpu); });
  reader.object("memory", [&](ObjectReader& memory) { read_memory(memory, config.memory); });
  reader.object("module_parameters", [&](ObjectReader& parameters) {
    for (const char* name : kModuleParameters) {
      if (const std::optional<bool> on = parameters.boolean(name)) {
        config.module_parameters[name] = *on;
      }
    }
  });
  config.kernel = reader.text("kernel");
  config.initrd = reader.text("initrd");
  config.append = reader.text("append");
  reader.object("firmware",
                [&](ObjectReader& firmware) { read_firmware(firmware, config.firmware); });
  reader.objects("disks", [&](ObjectReader& disk) { config.disks.push_back(read_disk(disk)); });
  read_network(reader, config);
  reader.objects("pci", [&](ObjectReader& pci) { config.pci.push_back(read_pci(pci)); });
  reader.objects("usb", [&](ObjectReader& usb) { config.usb.push_back(read_usb(usb)); });
  config.single_gpu = reader.boolean("single_gpu");
  config.stop_units = reader.texts("stop_units");
  config.hotplug = reader.choices("hotplug", hotplug_names());
  config.display = read_display(reader);
  config.video = reader.choice("video", video_names());
  reader.object("audio", [&](ObjectReader& audio) { config.audio = read_audio(audio); });
  config.serial = read_serial(reader);
  reader.object("rtc",
                [&](ObjectReader& rtc) { config.rtc_base = rtc.choice("base", rtc_names()); });
  config.hpet = reader.boolean_or_auto("hpet");
  config.on_reboot = reader.choice("on_reboot", reboot_names());
  reader.object("qemu", [&](ObjectReader& qemu) {
    config.qemu.binary = qemu.text("binary");
    for (const auto& argument : qemu.texts("extra_args")) {
      config.qemu.extra_args.push_back(argument.value_or(""));
    }
  });
  config.run_as = read_run_as(reader);
  config.sandbox = reader.choice("sandbox", sandbox_names());
  reader.object("stop", [&](ObjectReader& stop) {
    config.stop_timeout =
        stop.value("timeout", base::parse_duration, "a time such as \"60s\" or \"2m\"");
  });
  reader.finish();
  return config;
}

}  // namespace vmlaunch::launcher::config
