#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/steps/host.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::tests {

/// Answers on a built tree like a kernel with vfio: a probe binds, a bound group has a node, a
/// cgroup comes with its files. It counts the changes that are asked of it and can fail at each.
class FakeKernel : public launcher::steps::Host {
 public:
  enum class Fault {
    fails,         ///< an error, and nothing was changed
    fails_after,   ///< an error, but the change was made
    killed,        ///< whoever asked is killed before it was made; throws Killed
    killed_after,  ///< the same after it was made
    stuck,         ///< the kernel does not come back
  };
  struct Killed {};

  explicit FakeKernel(PciTree& tree) : Host(tree.root(), Deadlines{}), tree_(tree) {}

  /// The `number`th change from now on meets `fault`; 1 is the next.
  void fail_at(int number, Fault fault) {
    fail_at_ = count_ + number;
    fault_ = fault;
  }
  /// How many changes were asked for.
  [[nodiscard]] int count() const { return count_; }

  /// Who has devices open from the `look`th time on that somebody looks.
  void hold(int look, std::vector<launcher::steps::Holder> holders) {
    holders_[look] = std::move(holders);
  }

  void write(const std::string& path, const std::string& value) override;
  void write_to_driver(const std::string& path, const std::string& value) override;
  void make_folder(const std::string& path) override;
  void remove_folder(const std::string& path) override;
  void set_owner(const std::string& path, const launcher::steps::Owner& owner) override;
  void load_module(const std::string& name) override;
  [[nodiscard]] launcher::systemd::Unit unit(const std::string& name) const override;
  void stop_unit(const std::string& name) override;
  void start_unit(const std::string& name) override;
  [[nodiscard]] std::optional<launcher::steps::Owner> owner(const std::string& path) const override;
  [[nodiscard]] std::vector<launcher::steps::Holder> holders(
      const base::PciAddress& device) const override;

 private:
  template <typename Change>
  void meet(Change change);
  void bind(const std::string& address, const std::string& driver);
  void probe(const std::string& address);
  void bind_platform(const std::string& attribute, const std::string& device);

  PciTree& tree_;
  std::map<std::string, launcher::steps::Owner> owners_;
  std::map<int, std::vector<launcher::steps::Holder>> holders_;
  mutable int looks_ = 0;
  int count_ = 0;
  int fail_at_ = 0;
  Fault fault_ = Fault::fails;
};

/// What stands between the host's screen, which `gpu` draws, and a guest: two units that run, as
/// files in /units, a display manager, the console, the firmware's framebuffer.
void add_desktop(PciTree& tree, const std::string& gpu);

/// A tree that has what steps look for beside PCI functions: cgroup2, modules.
void add_system(PciTree& tree);

/// Everything in a tree, with contents and links: what must be the same before and after.
[[nodiscard]] std::map<std::string, std::string> snapshot(const PciTree& tree);

/// The lines in which two snapshots differ.
[[nodiscard]] std::string difference(const std::map<std::string, std::string>& before,
                                     const std::map<std::string, std::string>& after);

}  // namespace vmlaunch::tests
