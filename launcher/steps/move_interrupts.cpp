#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/text.hpp"
#include "launcher/steps/narrowing.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr const char* kInterrupts = "/proc/irq/";

/// Of interrupts to come; a mask in hexadecimal, where those that are there have a list.
constexpr const char* kDefault = "default_smp_affinity";
constexpr const char* kList = "/smp_affinity_list";

/// Keeps interrupts off the guest's CPUs. Each has a folder of its number's name.
class MoveInterrupts final : public Narrowing {
 public:
  using Narrowing::Narrowing;

  const char* kind() const override { return "move-interrupts"; }
  Step read(Fields& fields) const override { return move_interrupts(read_cpus(fields, "cpus")); }

  std::string describe() const override {
    return "keep interrupts off the CPUs " + base::to_string(cpus());
  }
  std::string object() const override { return "interrupts"; }
  bool is_free_of_qemu() const override { return true; }

 protected:
  Places look(const Host& host) const override {
    Places places;
    for (const std::string& name : host.tree().list(kInterrupts)) {
      const std::string text = host.tree().read(path_of(name)).value_or("");
      const auto now = name == kDefault ? base::parse_cpu_mask(text) : base::parse_cpu_set(text);
      if (now && !now->empty() && (name == kDefault || is_asked_for(host, name))) {
        places.emplace(name, *now);
      }
    }
    return places;
  }

  std::vector<int> put(
      Host& host, const std::vector<std::pair<std::string, base::CpuSet>>& places) const override {
    std::vector<std::pair<std::string, std::string>> values;
    values.reserve(places.size());
    for (const auto& [name, place] : places) {
      values.emplace_back(path_of(name),
                          name == kDefault ? base::to_mask(place) : base::to_string(place));
    }
    return host.write_each(values);
  }

  std::string fallback() const override { return kDefault; }
  std::string title(const std::string& name) const override {
    return name == kDefault ? "what interrupts to come get" : "the interrupt " + name;
  }

  void tell_of_kept(const Context& context,
                    const std::vector<std::pair<std::string, int>>& kept) const override {
    std::vector<std::string> numbers;
    numbers.reserve(kept.size());
    for (const auto& [name, error] : kept) {
      numbers.push_back(name);
    }
    context.waiting("the interrupts " + base::join(numbers, ", ") +
                    " stay on the guest's CPUs: the kernel alone places them (managed, or each "
                    "CPU's own); isolcpus=managed_irq,… at boot keeps some off");
  }

 private:
  static std::string path_of(const std::string& name) {
    return kInterrupts + name + (name == kDefault ? "" : kList);
  }

  /// A folder in its own has the name of who has asked for it.
  static bool is_asked_for(const Host& host, const std::string& number) {
    const std::string folder = kInterrupts + number;
    const std::vector<std::string> names = host.tree().list(folder);
    return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
      const auto status = host.tree().status(folder + "/" + name);
      return status && S_ISDIR(status->st_mode);
    });
  }
};

}  // namespace

Step move_interrupts(base::CpuSet cpus) {
  return Step(std::make_shared<MoveInterrupts>(std::move(cpus)));
}

}  // namespace vmlaunch::launcher::steps
