#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/steps/host.hpp"
#include "tests/support/pci_tree.hpp"

namespace vmlaunch::tests {

/// Answers on a built tree like a kernel with vfio: a probe binds, a bound group has a node, a
/// cgroup comes with its files, huge pages are counted as hugetlb does, a tap goes with its
/// descriptor. It counts the changes that are asked of it and can fail at each.
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

  explicit FakeKernel(PciTree& tree) : Host(tree.root(), quick()), tree_(tree) {}

  /// The `number`th change from now on meets `fault`; 1 is the next.
  void fail_at(int number, Fault fault) {
    fail_at_ = count_ + number;
    fault_ = fault;
  }
  /// A node has so much left for huge pages of 2M; so much more once memory was moved together, or
  /// once caches were dropped.
  void set_memory(unsigned node, int pages, int scattered = 0, int cached = 0);
  /// A QEMU takes huge pages of 2M that are free, or ends and gives them back.
  void take_pages(unsigned node, int pages);
  void give_pages_back(unsigned node, int pages);

  /// That function does not come back once it is removed.
  void lose(const std::string& address) { lost_.insert(address); }
  /// The driver that a probe finds for a USB interface; none for others.
  void set_usb_driver(const std::string& interface, const std::string& driver) {
    usb_drivers_[interface] = driver;
  }

  /// What a reset comes to (errno, 0: it works), of "0000:01:00.0 by flr" (the first word of its
  /// reset_method then), "0000:01:00.0 with its bus", "all below 0000:00:01.0". Unless told, works.
  void on_reset(std::function<int(const std::string& what)> answer) { answer_ = std::move(answer); }
  /// What was reset, in order.
  [[nodiscard]] const std::vector<std::string>& resets() const { return resets_; }
  /// What a function's configuration space has from now on; unless told, what its other files say.
  void set_config(const std::string& address, const std::string& bytes) {
    configs_[address] = bytes;
  }
  void clear_config(const std::string& address) { configs_.erase(address); }
  /// vfio's answer for a function; unless told, it goes by the files, and a bus is reset as a
  /// whole.
  void set_vfio(const launcher::steps::VfioReset& answer) { vfio_[answer.device] = answer; }
  /// Somebody has that IOMMU group open.
  void open_group(const std::string& number) { open_group_ = number; }
  /// A list of methods is refused when it is written back.
  void refuse_methods(const std::string& methods) { refused_methods_ = methods; }
  /// A line of its log.
  void log(const std::string& line) { log_.push_back(line); }

  /// How many changes were asked for.
  [[nodiscard]] int count() const { return count_; }

  /// Who has devices open from the `look`th time on that somebody looks.
  void hold(int look, std::vector<launcher::steps::Holder> holders) {
    holders_[look] = std::move(holders);
  }

  [[nodiscard]] std::string read_locked(const std::string& path) const override;
  void write(const std::string& path, const std::string& value) override;
  /// A child that makes all of them: what fails one of them fails what is asked.
  std::vector<int> write_each(
      const std::vector<std::pair<std::string, std::string>>& values) override;
  void write_to_driver(const std::string& path, const std::string& value) override;
  void write_on_node(const std::string& path, const std::string& value, unsigned node) override;
  void sync() override;
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
  [[nodiscard]] launcher::systemd::Unit unit(const std::string& name) const override;
  void stop_unit(const std::string& name) override;
  void start_unit(const std::string& name) override;
  void demand_controllers(const std::string& unit,
                          unsigned weight,
                          const base::CpuSet& cpus) override;
  [[nodiscard]] std::map<std::string, base::CpuSet> allowed_cpus(
      const std::vector<std::string>& units) const override;
  void allow_cpus(const std::string& unit, const base::CpuSet& cpus) override;
  std::vector<int> set_affinity_each(
      const std::vector<std::pair<pid_t, base::CpuSet>>& threads) override;
  [[nodiscard]] std::string read_config(const base::PciAddress& device) const override;
  void reset(const base::PciAddress& device, std::size_t methods) override;
  void reset_below(const base::PciAddress& bridge) override;
  [[nodiscard]] std::vector<launcher::steps::VfioReset> ask_vfio(
      const std::vector<base::PciAddress>& devices) const override;
  void hot_reset(const std::vector<base::PciAddress>& devices) override;
  [[nodiscard]] std::string open_group_of(
      const std::vector<base::PciAddress>& /*devices*/) const override {
    return open_group_;
  }
  [[nodiscard]] launcher::steps::KernelLog kernel_log(const std::vector<std::string>& about,
                                                      std::uint64_t since) const override;
  [[nodiscard]] std::vector<launcher::steps::Holder> holders(
      const base::PciAddress& device) const override;

 private:
  /// Here a card is found at once or never.
  static Deadlines quick() {
    Deadlines deadlines;
    deadlines.rescan = base::Milliseconds(20);
    deadlines.closing = base::Milliseconds(20);
    return deadlines;
  }

  template <typename Change>
  void meet(Change change);
  void bind(const std::string& address, const std::string& driver);
  void probe(const std::string& address);
  void probe_usb(const std::string& interface);
  void bind_platform(const std::string& attribute, const std::string& device);
  void set_pool(unsigned node, int persistent);
  void turn_controllers(const std::string& path, const std::string& words);
  void note_reset(const std::string& what);

  /// Memory of a node in huge pages.
  struct Memory {
    int left = 1 << 20;
    int scattered = 0;
    int cached = 0;
  };

  PciTree& tree_;
  std::map<unsigned, Memory> memory_;
  std::map<int, std::vector<launcher::steps::Holder>> holders_;
  mutable int looks_ = 0;
  std::set<std::string> lost_;
  std::map<std::string, std::string> usb_drivers_;
  std::function<int(const std::string&)> answer_;
  std::vector<std::string> resets_;
  std::map<std::string, std::string> configs_;
  std::map<base::PciAddress, launcher::steps::VfioReset> vfio_;
  std::string open_group_;
  std::optional<std::string> refused_methods_;
  std::vector<std::string> log_;
  unsigned last_link_ = 10;  ///< its number
  int count_ = 0;
  int fail_at_ = 0;
  Fault fault_ = Fault::fails;
};

/// What stands between the host's screen, which `gpu` draws, and a guest: two units that run, as
/// files in /units, a display manager, the console, the firmware's framebuffer.
void add_desktop(PciTree& tree, const std::string& gpu);

/// What a pool of huge pages of 2M shows: "nr_hugepages" and so on, of a node.
[[nodiscard]] int pool_of(const PciTree& tree, unsigned node, const std::string& attribute);

/// A tree that has what steps look for beside PCI functions: cgroup2, modules, two memory nodes.
void add_system(PciTree& tree);

/// Everything in a tree, with contents and links: what must be the same before and after.
[[nodiscard]] std::map<std::string, std::string> snapshot(const PciTree& tree);

/// The lines in which two snapshots differ.
[[nodiscard]] std::string difference(const std::map<std::string, std::string>& before,
                                     const std::map<std::string, std::string>& after);

}  // namespace vmlaunch::tests
