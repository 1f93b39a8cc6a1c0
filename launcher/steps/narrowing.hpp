#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu_set.hpp"
#include "launcher/steps/step.hpp"

namespace vmlaunch::launcher::steps {

/// Takes CPUs out of where the kernel may do something, for several things at once, each by its
/// name. Several VMs may have done so: then each thing is where it was before any of them, without
/// the CPUs of all; and who ends gives back its own.
class Narrowing : public JointChange {
 public:
  explicit Narrowing(base::CpuSet cpus) : cpus_(std::move(cpus)) {}

  void write(Json& json) const final;
  std::string describe_undo() const final { return "allowed there again as before"; }

  Json capture_beside(const Host& host,
                      const Context& context,
                      const std::vector<Json>& others) const final;
  void apply(Host& host, const Context& context, const Json& found, const Note& note) const final;
  void undo_beside(Host& host, const Json& found, const std::vector<Json>& others) const final;

 protected:
  /// Where things may be, by their names.
  using Places = std::map<std::string, base::CpuSet>;

  [[nodiscard]] const base::CpuSet& cpus() const { return cpus_; }

  /// All that can be narrowed, as it is now.
  [[nodiscard]] virtual Places look(const Host& host) const = 0;

  /// Puts some of those there: their errors (errno), 0 for none.
  [[nodiscard]] virtual std::vector<int> put(
      Host& host, const std::vector<std::pair<std::string, base::CpuSet>>& places) const = 0;

  /// Where one goes that would be nowhere, and one that comes meanwhile: its name among `places`;
  /// "" where such a one stays.
  [[nodiscard]] virtual std::string fallback() const { return ""; }

  /// For people: "the interrupt 24".
  [[nodiscard]] virtual std::string title(const std::string& name) const { return name; }

  /// Those that stay, and why (errno).
  virtual void tell_of_kept(const Context& /*context*/,
                            const std::vector<std::pair<std::string, int>>& /*kept*/) const {}

 private:
  base::CpuSet cpus_;
};

}  // namespace vmlaunch::launcher::steps
