#pragma once

#include <map>
#include <string>

#include "launcher/steps/host.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::tests {

/// Answers on a built tree like a kernel with vfio: a probe binds, a bound group has a node, a
/// cgroup comes with its files, a tap goes with its descriptor. It counts the changes that are
/// asked of it and can fail at each.
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

  void write(const std::string& path, const std::string& value) override;
  void write_to_driver(const std::string& path, const std::string& value) override;
  void make_folder(const std::string& path) override;
  void remove_folder(const std::string& path) override;
  base::UniqueFd make_tap(const std::string& name,
                          const std::string& bridge,
                          const std::string& guest_mac) override;
  base::UniqueFd open_tap(const std::string& name, bool multi_queue) override;
  void add_macvtap(const std::string& name,
                   const std::string& link,
                   const std::string& mac) override;
  void remove_link(unsigned index) override;
  void load_module(const std::string& name) override;

 private:
  template <typename Change>
  void meet(Change change);
  void bind(const std::string& address, const std::string& driver);
  void probe(const std::string& address);

  PciTree& tree_;
  unsigned last_link_ = 10;  ///< its number
  int count_ = 0;
  int fail_at_ = 0;
  Fault fault_ = Fault::fails;
};

/// A tree that has what steps look for beside PCI functions: cgroup2, modules.
void add_system(PciTree& tree);

/// Everything in a tree, with contents and links: what must be the same before and after.
[[nodiscard]] std::map<std::string, std::string> snapshot(const PciTree& tree);

/// The lines in which two snapshots differ.
[[nodiscard]] std::string difference(const std::map<std::string, std::string>& before,
                                     const std::map<std::string, std::string>& after);

}  // namespace vmlaunch::tests
