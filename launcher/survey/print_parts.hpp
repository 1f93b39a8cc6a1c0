#pragma once

#include <string>

#include "launcher/survey/host.hpp"
#include "launcher/survey/pci_names.hpp"

namespace vmlaunch::launcher::survey {

/// The parts of `vmlaunch host`'s text, each after an empty line.
void add_devices(std::string& text, const Host& host, const PciNames& names);
void add_usb(std::string& text, const Usb& usb);
void add_cpus(std::string& text, const Cpus& cpus);
void add_memory(std::string& text, const Memory& memory);

/// A line below a part's heading; none for an empty value.
void add_named(std::string& text, const std::string& name, const std::string& value);

}  // namespace vmlaunch::launcher::survey
