#include "launcher/config/checks.hpp"

namespace vmlaunch::launcher::config {

namespace {

/// What guests that refuse a virtual machine look for is Hyper-V's own name, and any other will do.
constexpr const char* kHiddenVendorId = "whatever";

}  // namespace

void check_cpu(const Config::Cpu& cpu, VmSpec& spec, Review& review) {
  spec.cpu.model = cpu.model;
  spec.cpu.sockets = cpu.sockets.value_or(1);
  spec.cpu.cores = cpu.cores.value_or(1);
  spec.cpu.threads = cpu.threads.value_or(1);
  // What both machine types take without an extended interrupt mode.
  if (spec.cpu.count() > 255) {
    review.report("/cpu",
                  std::to_string(spec.cpu.count()) +
                      " vCPUs (sockets x cores x threads); at most 255 are possible");
  }
  if (cpu.model && (cpu.model->empty() || cpu.model->starts_with('-'))) {
    review.report("/cpu/model", "expected a CPU model of QEMU, found \"" + *cpu.model + "\"");
  }
  spec.cpu.hide_hypervisor = cpu.hide_hypervisor.value_or(false);
  spec.cpu.hyperv = cpu.hyperv;
  if (spec.cpu.hide_hypervisor && cpu.hyperv && !cpu.hyperv->vendor_id) {
    spec.cpu.hyperv->vendor_id = kHiddenVendorId;
  }
}

}  // namespace vmlaunch::launcher::config
