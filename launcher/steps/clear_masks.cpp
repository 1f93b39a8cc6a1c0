#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using base::CpuSet;

constexpr const char* kInterrupts = "/proc/irq";
constexpr std::size_t kMostMasks = 65536;

/// What else of the kernel may run on some CPUs, and which: masks in hexadecimal.
constexpr const char* kHexMasks[] = {
    "/proc/irq/default_smp_affinity",  // of interrupts to come
    "/sys/devices/virtual/workqueue/cpumask",
    "/sys/devices/virtual/workqueue/writeback/cpumask",
};

/// A list: who is watched for doing nothing else.
constexpr const char* kWatchdog = "/proc/sys/kernel/watchdog_cpumask";

bool is_hex(const std::string& path) {
  return std::any_of(
      std::begin(kHexMasks), std::end(kHexMasks), [&](const char* one) { return path == one; });
}

std::optional<CpuSet> parse(const std::string& path, const std::string& text) {
  return is_hex(path) ? base::parse_cpu_mask(text) : base::parse_cpu_set(text);
}

std::string text_of(const std::string& path, const CpuSet& cpus) {
  return is_hex(path) ? base::to_mask(cpus) : base::to_string(cpus);
}

/// A mask of the kernel's, by its file, and what is to become of it.
struct Mask {
  std::string path;
  CpuSet before;
  CpuSet after;
};

std::string interrupt_mask(const std::string& number) {
  return std::string(kInterrupts) + "/" + number + "/smp_affinity_list";
}

/// "" for another path.
std::string number_of(const std::string& path) {
  const std::string folder = std::string(kInterrupts) + "/";
  return path.starts_with(folder)
             ? path.substr(folder.size(), path.find('/', folder.size()) - folder.size())
             : "";
}

/// Keeps interrupts, and what else the kernel does where it likes, off the guest's CPUs.
class ClearMasks final : public Change {
 public:
  explicit ClearMasks(CpuSet cpus) : cpus_(std::move(cpus)) {}

  const char* kind() const override { return "clear-masks"; }

  Step read(Fields& fields) const override { return clear_masks(read_cpus(fields, "cpus")); }
  void write(Json& json) const override { json["cpus"] = base::to_string(cpus_); }

  std::string describe() const override {
    return "keep interrupts, work queues and the watchdog off the CPUs " + base::to_string(cpus_);
  }
  std::string describe_undo() const override { return "these CPUs allowed again where they were"; }
  std::string object() const override { return "interrupts"; }
  std::vector<std::string> reserves() const override { return names_of_cpus(cpus_); }

  Json capture(const Host& host, const Context& /*context*/) const override {
    Json masks = Json::array();
    for (const Mask& mask : find_masks(host)) {
      masks.push_back({{"path", wire_text(mask.path)},
                       {"before", base::to_string(mask.before)},
                       {"after", base::to_string(mask.after)}});
    }
    return {{"masks", masks}};
  }

  void apply(Host& host,
             const Context& context,
             const Json& found,
             const Note& /*note*/) const override {
    std::vector<std::pair<std::string, std::string>> values;
    for (const Mask& mask : read_masks(found)) {
      values.emplace_back(mask.path, text_of(mask.path, mask.after));
    }
    const std::vector<int> errors = host.write_each(values);
    std::vector<std::string> kept;
    for (std::size_t i = 0; i < values.size(); ++i) {
      // One that is gone by now is nobody's.
      if (errors[i] != 0 && errors[i] != ENOENT) {
        kept.push_back(values[i].first.starts_with(kInterrupts) ? number_of(values[i].first)
                                                                : values[i].first);
      }
    }
    if (!kept.empty()) {
      context.waiting("the interrupts " + base::join(kept, ", ") +
                      " stay on the guest's CPUs: the kernel alone places them (managed, or each "
                      "CPU's own); isolcpus=managed_irq,… at boot keeps some off");
    }
  }

  /// Another VM may have taken other CPUs out meanwhile, and somebody may have moved one.
  void undo(Host& host, const Json& found) const override {
    std::vector<std::pair<std::string, std::string>> values;
    for (const Mask& mask : read_masks(found)) {
      const auto now = parse(mask.path, host.tree().read(mask.path).value_or("?"));
      if (!now || *now == mask.before) {
        continue;
      }
      CpuSet wanted = mask.before;
      if (*now != mask.after) {
        wanted = base::common(mask.before, cpus_);
        wanted.insert(now->begin(), now->end());
      }
      values.emplace_back(mask.path, text_of(mask.path, wanted));
    }
    static_cast<void>(host.write_each(values));
    require_restored(host, found);
  }

 private:
  /// An interrupt whose mask would be empty goes to the rest of the machine.
  [[nodiscard]] std::optional<Mask> look(const Host& host, const std::string& path) const {
    const auto before = parse(path, host.tree().read(path).value_or("?"));
    if (!before) {
      return std::nullopt;
    }
    Mask mask{path, *before, base::without(*before, cpus_)};
    if (mask.after == mask.before) {
      return std::nullopt;
    }
    if (mask.after.empty()) {
      mask.after = base::without(online_cpus(host), cpus_);
    }
    return mask.after.empty() ? std::nullopt : std::optional(mask);
  }

  /// Of interrupts those that somebody has asked for: their folders have one of that name.
  [[nodiscard]] std::vector<Mask> find_masks(const Host& host) const {
    std::vector<std::string> paths(std::begin(kHexMasks), std::end(kHexMasks));
    paths.emplace_back(kWatchdog);
    for (const std::string& number : host.tree().list(kInterrupts)) {
      const std::string folder = std::string(kInterrupts) + "/" + number;
      const std::vector<std::string> names = host.tree().list(folder);
      const bool asked_for = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
        const auto status = host.tree().status(folder + "/" + name);
        return status && S_ISDIR(status->st_mode);
      });
      if (asked_for) {
        paths.push_back(interrupt_mask(number));
      }
    }
    std::vector<Mask> masks;
    for (const std::string& path : paths) {
      if (const auto mask = look(host, path)) {
        masks.push_back(*mask);
      }
    }
    return masks;
  }

  static bool is_mask(const std::string& path) {
    const bool is_interrupt =
        base::parse_number<unsigned>(number_of(path)) && path == interrupt_mask(number_of(path));
    return is_interrupt || is_hex(path) || path == kWatchdog;
  }

  static std::vector<Mask> read_masks(const Json& found) {
    Fields fields(found);
    std::vector<Mask> masks;
    for (const Json& one : fields.array("masks", kMostMasks)) {
      Fields mask(one);
      masks.push_back({mask.text("path"), read_cpus(mask, "before"), read_cpus(mask, "after")});
      if (!is_mask(masks.back().path)) {
        throw FormError("not a mask that is changed");
      }
    }
    return masks;
  }

  /// What the kernel did not take before it does not take now either.
  void require_restored(const Host& host, const Json& found) const {
    std::vector<std::string> left;
    for (const Mask& mask : read_masks(found)) {
      const auto now = parse(mask.path, host.tree().read(mask.path).value_or("?"));
      if (now && *now == mask.after) {
        left.push_back(mask.path + " is " + base::to_string(*now) + ", and was " +
                       base::to_string(mask.before));
      }
    }
    if (!left.empty()) {
      throw Failure(ExitCode::host_not_restored, base::join(left, "; "));
    }
  }

  CpuSet cpus_;
};

}  // namespace

Step clear_masks(base::CpuSet cpus) {
  return Step(std::make_shared<ClearMasks>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
