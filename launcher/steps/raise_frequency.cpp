#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// What decides on a CPU's frequency, in the order in which they can be written: some drivers take
/// a preference only with their other governor.
constexpr const char* kFiles[] = {"scaling_governor", "energy_performance_preference"};
constexpr const char* kOurs = "performance";
constexpr std::size_t kMostSettings = 2 * 8192;

/// A word of the kernel's: "schedutil", "balance_performance".
std::string read_word(Fields& fields, const char* key) {
  std::string word = fields.text(key);
  if (word.empty() || word.size() > 32 ||
      word.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789") != std::string::npos) {
    throw FormError("not a word of cpufreq's");
  }
  return word;
}

/// Lets CPUs run as fast as they can.
class RaiseFrequency final : public Change {
 public:
  explicit RaiseFrequency(base::CpuSet cpus) : cpus_(std::move(cpus)) {}

  const char* kind() const override { return "raise-frequency"; }

  Step read(Fields& fields) const override { return raise_frequency(read_cpus(fields, "cpus")); }
  void write(Json& json) const override { json["cpus"] = base::to_string(cpus_); }

  std::string describe() const override {
    return "let the CPUs " + base::to_string(cpus_) +
           " run as fast as they can: governor and energy preference \"performance\"";
  }
  std::string describe_undo() const override { return "both as they were"; }
  std::string object() const override { return "cpufreq"; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    Json settings = Json::array();
    for (const unsigned cpu : cpus_) {
      for (const char* file : kFiles) {
        const auto before = host.tree().read(path_of(cpu, file));
        if (before && *before != kOurs) {
          settings.push_back({{"cpu", cpu}, {"file", file}, {"before", wire_text(*before)}});
        }
      }
    }
    return {{"settings", settings}};
  }

  void apply(Host& host,
             const Context& context,
             const Json& found,
             const Note& /*note*/) const override {
    std::vector<std::pair<std::string, std::string>> values;
    for (const Setting& setting : read_settings(found)) {
      values.emplace_back(setting.path, kOurs);
    }
    std::vector<std::string> refused;
    const std::vector<int> errors = host.write_each(values);
    for (std::size_t i = 0; i < errors.size(); ++i) {
      if (errors[i] != 0 && host.tree().read(values[i].first) != kOurs) {
        refused.push_back(values[i].first);
      }
    }
    if (!refused.empty()) {
      context.waiting("the driver of the CPUs' frequency does not take \"performance\" for " +
                      base::join(refused, ", "));
    }
  }

  // CPUs of one policy have one value: who wrote it last.
  void undo(Host& host, const Json& found) const override {
    std::vector<std::pair<std::string, std::string>> values;
    for (const Setting& setting : read_settings(found)) {
      if (host.tree().read(setting.path) == kOurs) {
        values.emplace_back(setting.path, setting.before);
      }
    }
    const std::vector<int> errors = host.write_each(values);
    std::vector<std::string> left;
    for (std::size_t i = 0; i < errors.size(); ++i) {
      if (host.tree().read(values[i].first) == kOurs) {
        left.push_back(values[i].first + " was " + values[i].second);
      }
    }
    if (!left.empty()) {
      throw Failure(ExitCode::host_not_restored, base::join(left, "; "));
    }
  }

 private:
  struct Setting {
    std::string path;
    std::string before;
  };

  static std::string path_of(unsigned cpu, const std::string& file) {
    return "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cpufreq/" + file;
  }

  static std::vector<Setting> read_settings(const Json& found) {
    Fields fields(found);
    std::vector<Setting> settings;
    for (const Json& one : fields.array("settings", kMostSettings)) {
      Fields setting(one);
      const auto cpu = static_cast<unsigned>(setting.number("cpu", 0, 8191));
      const std::string file = setting.text("file");
      if (file != kFiles[0] && file != kFiles[1]) {
        throw FormError("not a file of cpufreq's");
      }
      settings.push_back({path_of(cpu, file), read_word(setting, "before")});
    }
    return settings;
  }

  base::CpuSet cpus_;
};

}  // namespace

Step raise_frequency(base::CpuSet cpus) {
  return Step(std::make_shared<RaiseFrequency>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
