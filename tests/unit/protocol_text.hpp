#pragma once

#include <chrono>
#include <string>

#include "launcher/guardian/protocol.hpp"
#include "launcher/steps/steps.hpp"
#include "tests/support/catch.hpp"

namespace vmlaunch::launcher::guardian::tests {

using plan::FileUse;

/// A plan with something in every field.
inline Seal rich_seal() {
  using namespace std::chrono_literals;
  Seal seal;
  seal.config_name = "win 10, \"the\" one\n.json";
  seal.plan.name = "win10";
  seal.plan.files = {
      {"kernel", "/a, b/\"k\"\n", FileUse::Access::read, FileUse::Create::never, "", 10, true},
      {"UEFI variables",
       "/v",
       FileUse::Access::read_write,
       FileUse::Create::from_template,
       "/t é",
       11,
       false,
       false,
       true},
      {"serial log", "/s", FileUse::Access::append, FileUse::Create::empty, "", 255, false}};
  const base::PciAddress device{0, 4, 0, 1};
  seal.plan.placement.vcpus = {{2}, {3, 8, 9}};
  seal.plan.placement.rest = {0, 1};
  seal.plan.placement.policy = config::Policy::fifo;
  seal.plan.placement.priority = 99;
  seal.plan.steps = {steps::make_cgroup("win10"),
                     steps::load_driver("vfio-pci"),
                     steps::keep_awake(device),
                     steps::override_driver(device, "", "vfio-pci"),
                     steps::bind_driver(device, "snd_hda_intel", "vfio-pci"),
                     steps::lend_usb(config::UsbIds{0x046d, 0xc051}, false),
                     steps::lend_usb(config::UsbPort{1, {2, 3}}, true),
                     steps::lend_usb(config::UsbAddress{1, 4}, false)};
  seal.plan.qemu.memlock = base::ByteSize{base::kGiB};
  seal.plan.qemu.binary = "/usr/bin/qemu";
  seal.plan.qemu.arguments = {"-S", "", "-append", "a \\ b\t\x7f"};
  seal.plan.qemu.environment = {"PATH=/usr/bin", "LANG=C.UTF-8"};
  seal.plan.qemu.user.credentials = sandbox::Credentials{1000, 0, {}};
  seal.plan.qemu.dev = {
      {"kvm", "vfio/vfio"},
      {device},
      {config::UsbIds{0x046d, 0xc051}, config::UsbPort{1, {2, 3}}, config::UsbAddress{1, 4}}};
  seal.plan.qemu.root = {false, {"/usr", "/a b\n"}, {"/sys/fs"}, true, true};
  seal.plan.qemu.calls = {config::Sandbox::log, {"kvm", "vfio"}};
  seal.plan.qemu.hotplug = {config::Hotplug::usb, config::Hotplug::net};
  seal.plan.qemu.serial_stdio = true;
  seal.plan.restarts = true;
  seal.plan.deadlines = {30s, 10s, 0ms, 1ms, 2s, 3s, 1000h};
  seal.program_opened = true;
  seal.opened = {0, 2};
  return seal;
}

inline Json seal_json() {
  return Json::parse(encode(Request(rich_seal())));
}

/// The protocol's complaint about a request, or "nothing".
inline std::string complaint(const std::string& bytes) {
  try {
    static_cast<void>(decode_request(bytes));
  } catch (const ProtocolError& error) {
    return error.what();
  }
  return "nothing";
}

inline std::string complaint(const Json& json) {
  return complaint(json.dump());
}

inline std::string complaint_of_reply(const std::string& bytes) {
  try {
    static_cast<void>(decode_reply(bytes));
  } catch (const ProtocolError& error) {
    return error.what();
  }
  return "nothing";
}

/// rich_seal with the value at `pointer` replaced.
inline Json seal_with(const char* pointer, const Json& value) {
  Json json = seal_json();
  json[Json::json_pointer(pointer)] = value;
  return json;
}

}  // namespace vmlaunch::launcher::guardian::tests
