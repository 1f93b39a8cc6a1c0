#pragma once

#include "launcher/config/config.hpp"
#include "launcher/config/reader.hpp"

namespace vmlaunch::launcher::config {

/// The object "cpu".
void read_cpu(ObjectReader& reader, Config::Cpu& cpu);

}  // namespace vmlaunch::launcher::config
