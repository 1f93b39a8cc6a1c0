#pragma once

#include "launcher/config/review.hpp"
#include "launcher/config/vm_spec.hpp"

namespace vmlaunch::launcher::config {

/// Each fills in its part of the spec and reports what is wrong with it.
void check_cpu(const Config::Cpu& cpu, VmSpec& spec, Review& review);
void check_memory(const Config::Memory& given, VmSpec::Memory& memory, Review& review);
void check_disks(const Config& config, VmSpec& spec, Review& review);
void check_network(const Config& config, VmSpec& spec, Review& review);
void check_pci(const Config& config, VmSpec& spec, Review& review);
void check_usb(const Config& config, VmSpec& spec, Review& review);
void check_single_gpu(const Config& config, VmSpec& spec, Review& review);

/// After the PCI devices and the display, which it depends on.
void check_video(const Config& config, VmSpec& spec, Review& review);

}  // namespace vmlaunch::launcher::config
