#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

/// What guests that refuse a virtual machine look for is Hyper-V's own name, and any other will do.
constexpr const char* kHiddenVendorId = "whatever";

/// A number of CPUs, or of places in a map, that is not that of the vCPUs.
void check_pin(const Config::Cpu& cpu, VmSpec& spec, Review& review) {
  const bool pinned = spec.cpu.pin.kind != Pin::Kind::none;
  if (!pinned && cpu.emulator) {
    review.report_without("/cpu/pin", "/cpu/emulator", "given without \"pin\"");
  }
  if (!pinned && cpu.realtime && cpu.realtime->policy != Policy::other) {
    review.report_without(
        "/cpu/pin", "/cpu/realtime", "given without \"pin\": the vCPUs would crowd out the host");
  }
  if (!pinned && !cpu.isolate.empty()) {
    review.report_without("/cpu/pin", "/cpu/isolate", "given without \"pin\": from which CPUs?");
  }
  const std::size_t places =
      spec.cpu.pin.kind == Pin::Kind::map ? spec.cpu.pin.map.size() : spec.cpu.pin.set.size();
  const bool listed = pinned && spec.cpu.pin.kind != Pin::Kind::automatic;
  const bool counted = !review.unread("/cpu/sockets") && !review.unread("/cpu/cores") &&
                       !review.unread("/cpu/threads");
  if (listed && counted && places != spec.cpu.count()) {
    review.report("/cpu/pin",
                  std::to_string(places) + " for " + std::to_string(spec.cpu.count()) +
                      " vCPUs (sockets x cores x threads); name one for each");
  }
}

}  // namespace

void check_cpu(const Config::Cpu& cpu, VmSpec& spec, Review& review) {
  spec.cpu.model = cpu.model;
  spec.cpu.sockets = cpu.sockets.value_or(1);
  spec.cpu.cores = cpu.cores.value_or(1);
  spec.cpu.threads = cpu.threads.value_or(1);
  if (spec.cpu.count() > kMostVcpus) {
    review.report("/cpu",
                  std::to_string(spec.cpu.count()) +
                      " vCPUs (sockets x cores x threads); at most " + std::to_string(kMostVcpus) +
                      " are possible");
  }
  if (cpu.model && (cpu.model->empty() || cpu.model->starts_with('-'))) {
    review.report("/cpu/model", "expected a CPU model of QEMU, found \"" + *cpu.model + "\"");
  }
  spec.cpu.hide_hypervisor = cpu.hide_hypervisor.value_or(false);
  spec.cpu.hyperv = cpu.hyperv;
  spec.cpu.pin = cpu.pin.value_or(Pin());
  spec.cpu.emulator = cpu.emulator;
  spec.cpu.realtime = cpu.realtime;
  spec.cpu.isolate = {cpu.isolate.begin(), cpu.isolate.end()};
  spec.cpu.weight = cpu.weight;
  spec.cpu.halt_polling = cpu.halt_polling.value_or(spec.cpu.halt_polling);
  spec.cpu.power_management = cpu.power_management;
  check_pin(cpu, spec, review);
  if (spec.cpu.hide_hypervisor && cpu.hyperv && !cpu.hyperv->vendor_id) {
    spec.cpu.hyperv->vendor_id = kHiddenVendorId;
  }
}

}  // namespace vmlaunch::launcher::config
