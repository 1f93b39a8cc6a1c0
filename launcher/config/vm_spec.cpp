#include "launcher/config/vm_spec.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <utility>

#include "base/text.hpp"
#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

/// What adds to the machine. All else is vmlaunch's own to say, or would undo how QEMU is held.
constexpr std::array<std::string_view, 27> kExtraOptions = {
    "acpitable", "audiodev", "blockdev",       "boot", "chardev", "d",      "device",  "fsdev",
    "fw_cfg",    "global",   "icount",         "k",    "netdev",  "nic",    "no-hpet", "object",
    "parallel",  "rtc",      "serial",         "set",  "smbios",  "tpmdev", "trace",   "usb",
    "vga",       "virtfs",   "watchdog-action"};

bool is_other_option(std::string_view argument) {
  if (!argument.starts_with('-')) {
    return false;
  }
  argument.remove_prefix(argument.starts_with("--") ? 2 : 1);
  return std::find(kExtraOptions.begin(), kExtraOptions.end(), argument) == kExtraOptions.end();
}

/// Root, by name or number, and the number that system calls take for "no change".
bool may_not_run_qemu(const std::string& user) {
  const auto uid = base::parse_number<std::uint32_t>(user);
  return user.empty() || user == "root" || uid == std::uint32_t{0} || uid == UINT32_MAX;
}

void name(const Config& config, VmSpec& spec, Review& review) {
  spec.name = config.name.value_or(review.file().stem().string());
  if (!is_vm_name(spec.name)) {
    review.report("/name",
                  (config.name ? "" : "no name is given, and the file's does not serve: ") +
                      std::string("expected 1 to 64 letters, digits, \".\", \"_\" or \"-\", the "
                                  "first a letter, a digit or \"_\", found \"") +
                      spec.name + "\"");
  }
}

void linux_boot(const Config& config, VmSpec& spec, Review& review) {
  if (!config.kernel) {
    for (const auto& [key, given] : {std::pair("/initrd", config.initrd.has_value()),
                                     std::pair("/append", config.append.has_value())}) {
      if (given) {
        review.report_without("/kernel", key, "given without \"kernel\"");
      }
    }
    return;
  }
  VmSpec::Linux boot;
  boot.kernel = review.path("/kernel", *config.kernel);
  if (config.initrd) {
    boot.initrd = review.path("/initrd", *config.initrd);
  }
  boot.append = config.append.value_or("");
  spec.linux_boot = boot;
}

void firmware(const Config::Firmware& firmware, VmSpec& spec, Review& review) {
  if (!firmware.uefi.value_or(false)) {
    for (const auto& [key, given] :
         {std::pair("/firmware/vars", firmware.vars.has_value()),
          std::pair("/firmware/code", firmware.code.has_value()),
          std::pair("/firmware/template", firmware.vars_template.has_value())}) {
      if (given) {
        review.report_without("/firmware/uefi", key, "given without \"uefi\": true");
      }
    }
    return;
  }
  VmSpec::Uefi uefi;
  if (firmware.vars) {
    uefi.vars = review.path("/firmware/vars", *firmware.vars);
  } else {
    review.report(
        "/firmware/vars",
        "UEFI keeps its boot entries in a file: name one (it is made if it does not exist)");
  }
  if (firmware.code) {
    uefi.code = review.path("/firmware/code", *firmware.code);
  }
  if (firmware.vars_template) {
    uefi.vars_template = review.path("/firmware/template", *firmware.vars_template);
  }
  spec.uefi = uefi;
}

void stop_units(const Config& config, VmSpec& spec, Review& review) {
  if (config.stop_units.size() > kMostUnits) {
    review.report("/stop_units", "at most " + std::to_string(kMostUnits) + " units are possible");
  }
  std::set<std::string> seen;
  for (std::size_t i = 0; i < config.stop_units.size(); ++i) {
    const std::string pointer = child("/stop_units", i);
    const std::string unit = config.stop_units[i].value_or("");
    if (!is_unit_name(unit)) {
      review.report(pointer,
                    "expected a unit of systemd that can be started again, such as "
                    "\"nvidia-persistenced.service\", found \"" +
                        unit + "\"");
    } else if (!seen.insert(unit).second) {
      review.report(pointer, "this unit is listed twice");
    }
    spec.stop_units.push_back(unit);
  }
}

/// Neither has a password here.
void check_server(const Display& display, Review& review) {
  if (!display.is_server()) {
    return;
  }
  const std::string pointer = child("/display", to_string(display.kind));
  if (!display.address.address.starts_with("127.")) {
    review.report(pointer,
                  std::string("expected an address of this machine (127.x.x.x): ") +
                      (display.kind == Display::Kind::vnc ? "VNC" : "SPICE") +
                      " has no password here; from elsewhere, tunnel the port through ssh");
  }
  if (display.address.port < 5900) {
    review.report(pointer, "expected a port from 5900 up (VNC's display 0)");
  }
}

void console(const Config& config, VmSpec& spec, Review& review) {
  spec.display = config.display.value_or(Display{});
  check_server(spec.display, review);
  spec.serial = config.serial.value_or(Serial{});
  if (spec.serial.kind == Serial::Kind::file) {
    spec.serial.file = review.path("/serial/file", spec.serial.file);
  }
}

void audio(const Config& config, VmSpec& spec, Review& review) {
  if (!config.audio) {
    return;
  }
  VmSpec::Audio audio;
  audio.backend = config.audio->backend.value_or(audio.backend);
  audio.device = config.audio->device.value_or(audio.device);
  if (config.audio->server) {
    audio.server = review.path("/audio/server", *config.audio->server);
    if (config.audio->backend == AudioBackend::none) {
      review.report("/audio/server", "given without a sound server as \"backend\"");
    }
    // libpulse takes a list.
    if (audio.server->find_first_of(" \t\n\r\f\v") != std::string::npos) {
      review.report("/audio/server",
                    "a path with a space, where PulseAudio begins another server's name");
    }
  }
  spec.audio = audio;
}

void qemu(const Config& config, VmSpec& spec, Review& review) {
  if (config.qemu.binary) {
    spec.qemu_binary = review.path("/qemu/binary", *config.qemu.binary);
  }
  spec.extra_args = config.qemu.extra_args;
  for (std::size_t i = 0; i < spec.extra_args.size(); ++i) {
    if (is_other_option(spec.extra_args[i])) {
      review.report(child("/qemu/extra_args", i),
                    "\"" + spec.extra_args[i] +
                        "\" may not be added to QEMU's options; vmlaunch.json(5) lists those that "
                        "may");
    }
  }
}

void run_as(const Config& config, VmSpec& spec, Review& review) {
  spec.run_as = config.run_as;
  if (spec.run_as && may_not_run_qemu(*spec.run_as)) {
    review.report("/run_as", "expected a user other than root, found \"" + *spec.run_as + "\"");
  }
}

VmSpec validate(const Config& config, Review& review) {
  VmSpec spec;
  spec.file = review.file().string();
  name(config, spec, review);
  spec.machine = config.machine.value_or(spec.machine);
  spec.accel = config.accel.value_or(spec.accel);
  check_cpu(config.cpu, spec, review);
  check_memory(config.memory, spec.memory, review);
  spec.module_parameters = config.module_parameters;
  linux_boot(config, spec, review);
  firmware(config.firmware, spec, review);
  check_disks(config, spec, review);
  check_network(config, spec, review);
  check_pci(config, spec, review);
  check_usb(config, spec, review);
  check_single_gpu(config, spec, review);
  stop_units(config, spec, review);
  spec.hotplug = {config.hotplug.begin(), config.hotplug.end()};
  console(config, spec, review);
  check_video(config, spec, review);
  audio(config, spec, review);
  qemu(config, spec, review);
  run_as(config, spec, review);
  spec.rtc_base = config.rtc_base.value_or(spec.rtc_base);
  spec.hpet = config.hpet;
  spec.on_reboot = config.on_reboot.value_or(spec.on_reboot);
  spec.sandbox = config.sandbox.value_or(spec.sandbox);
  spec.stop_timeout = config.stop_timeout.value_or(spec.stop_timeout);
  return spec;
}

}  // namespace

bool is_vm_name(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  };
  return !name.empty() && name.size() <= 64 && name.front() != '.' && name.front() != '-' &&
         std::all_of(name.begin(), name.end(), allowed);
}

VmSpec load(const Document& document, const std::string& path) {
  std::vector<Issue> issues;
  const Config config = parse(document, issues);
  Review review(path, issues);
  VmSpec spec = validate(config, review);
  if (!issues.empty()) {
    throw document.error(issues);
  }
  return spec;
}

}  // namespace vmlaunch::launcher::config
