#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr std::size_t kMostSettings = 16384;  // two for each CPU that there may be

/// A file of each CPU's: what stands before and behind its number, and what is to be in it.
struct File {
  const char* before;
  const char* behind;
  const char* ours;

  [[nodiscard]] std::string path(unsigned cpu) const {
    return before + std::to_string(cpu) + behind;
  }
};

constexpr const char* kCpu = "/sys/devices/system/cpu/cpu";

/// Files in the order in which they can be written: some drivers take a preference only with their
/// other governor.
struct Known {
  CpuTuning which;
  std::string_view name;
  const char* description;
  const char* undone;
  std::vector<File> files;
};

const std::vector<Known>& all_known() {
  static const std::vector<Known> all = {
      {CpuTuning::frequency,
       "frequency",
       " run as fast as they can: governor and energy preference \"performance\"",
       "both as they were",
       {{kCpu, "/cpufreq/scaling_governor", "performance"},
        {kCpu, "/cpufreq/energy_performance_preference", "performance"}}},
      {CpuTuning::fair_server,
       "fair-server",
       " be real-time threads' alone: the fair server's runtime 0, where debugfs shows it",
       "its runtime as it was",
       {{"/sys/kernel/debug/sched/fair_server/cpu", "/runtime", "0"}}},
  };
  return all;
}

const Known& known(CpuTuning which) {
  return *std::find_if(all_known().begin(), all_known().end(), [which](const Known& one) {
    return one.which == which;
  });
}

/// A word or number of the kernel's: "schedutil", "balance_performance", "50000000".
std::string read_word(Fields& fields, const char* key) {
  std::string word = fields.text(key);
  if (word.empty() || word.size() > 32 ||
      word.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789") != std::string::npos) {
    throw FormError("not a word of the kernel's");
  }
  return word;
}

/// Sets some files of CPUs for the time of a run.
class TuneCpus final : public Change {
 public:
  TuneCpus(CpuTuning which, base::CpuSet cpus) : which_(which), cpus_(std::move(cpus)) {}

  const char* kind() const override { return "tune-cpus"; }

  Step read(Fields& fields) const override {
    const std::string name = fields.text("name");
    for (const Known& one : all_known()) {
      if (one.name == name) {
        return tune_cpus(one.which, read_cpus(fields, "cpus"));
      }
    }
    throw FormError("nothing that is tuned");
  }
  void write(Json& json) const override {
    json.update({{"name", known(which_).name}, {"cpus", base::to_string(cpus_)}});
  }

  std::string describe() const override {
    return "let the CPUs " + base::to_string(cpus_) + known(which_).description;
  }
  std::string describe_undo() const override { return known(which_).undone; }
  std::string object() const override { return std::string(known(which_).name); }
  bool is_free_of_qemu() const override { return true; }

  Json capture(const Host& host, const Context& /*context*/) const override {
    Json settings = Json::array();
    for (const unsigned cpu : cpus_) {
      const std::vector<File>& files = known(which_).files;
      for (std::size_t i = 0; i < files.size(); ++i) {
        const auto before = host.tree().read(files[i].path(cpu));
        if (before && *before != files[i].ours) {
          settings.push_back({{"cpu", cpu}, {"file", i}, {"before", wire_text(*before)}});
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
      values.emplace_back(setting.path, setting.ours);
    }
    std::vector<std::string> refused;
    const std::vector<int> errors = host.write_each(values);
    for (std::size_t i = 0; i < errors.size(); ++i) {
      if (errors[i] != 0 && host.tree().read(values[i].first) != values[i].second) {
        refused.push_back(values[i].first);
      }
    }
    if (!refused.empty()) {
      context.waiting("the kernel does not take " + values.front().second + " for " +
                      base::join(refused, ", "));
    }
  }

  // CPUs of one frequency have one value: who wrote it last.
  void undo(Host& host, const Json& found) const override {
    std::vector<std::pair<std::string, std::string>> values;
    std::vector<std::string> changed;
    for (const Setting& setting : read_settings(found)) {
      const std::string now = host.tree().read(setting.path).value_or(setting.before);
      if (now == setting.ours) {
        values.emplace_back(setting.path, setting.before);
      } else if (now != setting.before) {
        changed.push_back(words(setting, now));
      }
    }
    static_cast<void>(host.write_each(values));
    std::vector<std::string> left;
    for (const Setting& setting : read_settings(found)) {
      if (host.tree().read(setting.path) == setting.ours) {
        left.push_back(words(setting, setting.ours));
      }
    }
    if (!left.empty()) {
      throw Failure(ExitCode::host_not_restored, base::join(left, "; "));
    }
    if (!changed.empty()) {
      throw ChangedMeanwhile(base::join(changed, "; "));
    }
  }

 private:
  struct Setting {
    std::string path;
    std::string ours;
    std::string before;
  };

  static std::string words(const Setting& setting, const std::string& now) {
    return setting.path + " is " + base::printable(now) + ", and was " + setting.before;
  }

  [[nodiscard]] std::vector<Setting> read_settings(const Json& found) const {
    Fields fields(found);
    const std::vector<File>& files = known(which_).files;
    std::vector<Setting> settings;
    for (const Json& one : fields.array("settings", kMostSettings)) {
      Fields setting(one);
      const auto cpu = static_cast<unsigned>(setting.number("cpu", 0, 8191));
      const File& file = files[setting.number("file", 0, files.size() - 1)];
      settings.push_back({file.path(cpu), file.ours, read_word(setting, "before")});
    }
    return settings;
  }

  CpuTuning which_;
  base::CpuSet cpus_;
};

}  // namespace

Step tune_cpus(CpuTuning which, base::CpuSet cpus) {
  return Step(std::make_shared<TuneCpus>(which, std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
