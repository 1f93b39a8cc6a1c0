#include "launcher/survey/iommu.hpp"

#include <algorithm>

#include "base/text.hpp"
#include "launcher/survey/cpus.hpp"

namespace vmlaunch::launcher::survey {

namespace {

/// A maker's words for the same things.
struct Maker {
  const char* name;
  const char* table;
  const char* in_setup;  ///< the firmware's
  const char* parameter;
  const char* needed;  ///< on the kernel's command line, whatever the kernel's default
};

constexpr Maker kIntel = {"Intel", "DMAR", "VT-d", "intel_iommu", "intel_iommu=on"};
constexpr Maker kAmd = {"AMD", "IVRS", "AMD-Vi (also called IOMMU)", "amd_iommu", ""};

/// The words that set `option` for `name`: "intel_iommu=on,sm_on" sets two.
CommandLine words_with(const CommandLine& line, const std::string& name, const char* option) {
  CommandLine found;
  for (const std::string& word : line) {
    const std::vector<std::string> options = word.starts_with(name + "=")
                                                 ? base::split(word.substr(name.size() + 1), ',')
                                                 : std::vector<std::string>();
    if (std::find(options.begin(), options.end(), option) != options.end()) {
      found.push_back(word);
    }
  }
  return found;
}

CommandLine off_words(const CommandLine& line, const Maker& maker) {
  CommandLine words = words_with(line, maker.parameter, "off");
  const CommandLine general = words_with(line, "iommu", "off");
  words.insert(words.end(), general.begin(), general.end());
  return words;
}

std::string advice_for(const Maker& maker, const IommuSetup& setup) {
  const CommandLine line = setup.command_line.value_or(CommandLine());
  const CommandLine off = off_words(line, maker);
  std::vector<std::string> needs;
  if (setup.table != maker.table) {
    needs.push_back((setup.table
                         ? std::string("the firmware shows none (no table ") + maker.table + "): "
                         : std::string()) +
                    "turn on " + maker.in_setup + " in the firmware's setup");
  }
  if (!off.empty()) {
    needs.push_back("take " + base::join(off, " ") + " from the kernel's command line");
  }
  if (*maker.needed != '\0' && words_with(line, maker.parameter, "on").empty()) {
    needs.push_back(std::string("add ") + maker.needed + " iommu=pt to the kernel's command line");
  }
  if (!setup.command_line) {
    needs.push_back(std::string("see that ") + maker.parameter +
                    "=off is not on the kernel's command line");
  }
  if (needs.empty()) {
    needs.push_back(
        "the firmware shows one, and the kernel's command line leaves it on; type: sudo dmesg | "
        "grep -i -e iommu -e " +
        std::string(maker.table));
  }
  return std::string(maker.name) + ": " + base::join(needs, ", and ");
}

}  // namespace

std::vector<std::string> IommuSetup::advice() const {
  // A table tells more than a name: machines that are emulated may mix them.
  const bool is_told = table && !table->empty();
  const bool is_intel = cpu_vendor == "GenuineIntel";
  std::vector<std::string> lines;
  if (is_told ? table == kIntel.table : !is_amd(cpu_vendor)) {
    lines.push_back(advice_for(kIntel, *this));
  }
  if (is_told ? table == kAmd.table : !is_intel) {
    lines.push_back(advice_for(kAmd, *this));
  }
  return lines;
}

IommuSetup look_at_iommu_setup(Reader& reader) {
  constexpr const char* kTables = "/sys/firmware/acpi/tables";
  IommuSetup setup;
  setup.cpu_vendor = reader.field("/proc/cpuinfo", "vendor_id").value_or("");
  setup.command_line = look_at_command_line(reader);
  if (reader.has(kTables)) {
    setup.table = "";
    for (const char* table : {kIntel.table, kAmd.table}) {
      const std::string path = std::string(kTables) + "/" + table;
      if (reader.tree().exists(path)) {
        // Only root may read it, and that it is there says enough.
        reader.keep(path, "");
        setup.table = table;
      }
    }
  }
  return setup;
}

}  // namespace vmlaunch::launcher::survey
