#include "launcher/survey/print.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "base/text.hpp"
#include "launcher/survey/print_parts.hpp"

namespace vmlaunch::launcher::survey {

namespace {

std::string describe(const std::map<std::string, std::string>& parameters) {
  std::vector<std::string> words;
  words.reserve(parameters.size());
  for (const auto& [name, value] : parameters) {
    words.push_back(name + "=" + value);
  }
  return words.empty() ? "there" : base::join(words, " ");
}

std::string describe(const Cgroup& cgroup) {
  if (!cgroup.usable) {
    return base::join(cgroup.controllers, " ") + "; the caller can make no cgroup";
  }
  return cgroup.usable == cgroup.controllers
             ? base::join(cgroup.controllers, " ")
             : base::join(cgroup.controllers, " ") +
                   "; of these for the caller: " + base::join(*cgroup.usable, " ");
}

void add_kernel(std::string& text, const Host& host) {
  text += "\nkernel: " +
          (host.kernel.release.empty() ? "not seen" : base::printable(host.kernel.release)) + "\n";
  if (host.kernel.command_line) {
    add_named(
        text, "command line, as far as it matters", base::join(*host.kernel.command_line, " "));
  }
  add_named(text, "lockdown", host.kernel.lockdown);
  add_named(text, "/dev/kvm", host.kvm.node ? "there" : "not there");
  for (const Module& module : host.kernel.modules) {
    add_named(text, module.name, describe(module.parameters));
  }
  add_named(text, "cgroup2", host.cgroup ? describe(*host.cgroup) : "not there");
}

void add_unseen(std::string& text, const std::vector<std::string>& unseen) {
  if (unseen.empty()) {
    return;
  }
  const bool is_hidden = std::any_of(unseen.begin(), unseen.end(), [](const std::string& line) {
    return line.ends_with(": Permission denied");
  });
  text += is_hidden ? "\nnot seen; root sees more\n" : "\nnot seen\n";
  for (const std::string& line : unseen) {
    text += "  " + base::printable(line) + "\n";
  }
}

}  // namespace

void add_named(std::string& text, const std::string& name, const std::string& value) {
  if (!value.empty()) {
    text += "  " + name + ": " + base::printable(value) + "\n";
  }
}

std::string about(base::ByteSize size) {
  static constexpr std::string_view kUnits = "KMGTPE";
  std::uint64_t unit = base::kKiB;
  std::size_t letter = 0;
  while (size.bytes / unit >= 1024 && letter + 1 < kUnits.size()) {
    unit *= 1024;
    ++letter;
  }
  const std::uint64_t whole = size.bytes / unit;
  const std::uint64_t tenths = size.bytes % unit * 10 / unit;
  return std::to_string(whole) + (tenths == 0 ? "" : "." + std::to_string(tenths)) +
         std::string(1, kUnits[letter]);
}

std::string to_text(const Host& host, const PciNames& names) {
  const std::optional<bool> iommu = host.pci.has_iommu();
  std::string text = !iommu   ? "IOMMU: not seen\n"
                     : *iommu ? "IOMMU: on\n"
                              : "IOMMU: off; no device can be given to a guest\n";
  for (const std::string& line : host.pci.iommu_advice()) {
    text += "  " + base::printable(line) + "\n";
  }
  add_devices(text, host, names);
  add_usb(text, host.usb);
  add_cpus(text, host.cpus);
  add_memory(text, host.memory);
  add_kernel(text, host);
  add_unseen(text, host.unseen);
  return text;
}

}  // namespace vmlaunch::launcher::survey
