#include "launcher/guardian/interrupts.hpp"

#include <optional>
#include <string>
#include <utility>

#include "base/file.hpp"
#include "base/text.hpp"

namespace vmlaunch::launcher::guardian {

namespace {

/// The device of which vfio has an interrupt, by the name that it gives it:
/// "vfio-msix[0](0000:01:00.0)", "vfio-msi[0](…)" (drivers/vfio/pci/vfio_pci_intrs.c). The line of
/// "vfio-intx(…)" may be one that the host's devices have too.
std::optional<base::PciAddress> device_of(const std::string& action) {
  const std::size_t open = action.find('(');
  if (!action.starts_with("vfio-msi") || open == std::string::npos || !action.ends_with(')')) {
    return std::nullopt;
  }
  return base::parse_pci_address(action.substr(open + 1, action.size() - open - 2));
}

/// "  24:  0  17  IR-PCI-MSI 524288-edge  vfio-msix[0](0000:01:00.0)" as number and last word.
std::optional<std::pair<unsigned, std::string>> parse_line(const std::string& line) {
  const std::size_t colon = line.find(':');
  const std::size_t begin = line.find_first_not_of(' ');
  if (colon == std::string::npos || begin >= colon) {
    return std::nullopt;
  }
  const auto number = base::parse_number<unsigned>(line.substr(begin, colon - begin));
  return number ? std::optional(std::pair(*number, line.substr(line.rfind(' ') + 1)))
                : std::nullopt;
}

}  // namespace

void place_interrupts(steps::Host& host,
                      const std::set<base::PciAddress>& devices,
                      const std::vector<base::CpuSet>& vcpus) {
  std::vector<std::pair<std::string, std::string>> values;
  std::size_t next = 0;
  const std::string all = host.tree().read("/proc/interrupts").value_or("");
  for (const std::string& line : base::split(all, '\n')) {
    const auto interrupt = parse_line(line);
    const auto device = interrupt ? device_of(interrupt->second) : std::nullopt;
    if (!device || !devices.contains(*device)) {
      continue;
    }
    const std::string path = "/proc/irq/" + std::to_string(interrupt->first) + "/smp_affinity_list";
    const std::string wanted = base::to_string(vcpus[next++ % vcpus.size()]);
    if (host.tree().read(path) != wanted) {
      values.emplace_back(path, wanted);
    }
  }
  if (!values.empty()) {
    static_cast<void>(host.write_each(values));
  }
}

}  // namespace vmlaunch::launcher::guardian
