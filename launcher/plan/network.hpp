#pragma once

#include "launcher/plan/plan.hpp"

namespace vmlaunch::launcher::plan {

/// Adds the changes of the host that the NICs need. Throws Failure (preflight) with every link that
/// cannot serve.
void add_network_steps(const config::VmSpec& spec,
                       const survey::Survey& survey,
                       const Identity& identity,
                       Plan& plan);

/// Whether the kernel carries a NIC's packets.
[[nodiscard]] bool uses_vhost(const config::VmSpec::Nic& nic, const survey::Survey& survey);

}  // namespace vmlaunch::launcher::plan
