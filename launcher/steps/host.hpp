#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu_set.hpp"
#include "base/duration.hpp"
#include "base/process.hpp"
#include "base/tree.hpp"
#include "base/unique_fd.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/context.hpp"
#include "launcher/steps/holders.hpp"
#include "launcher/steps/kernel_log.hpp"
#include "launcher/steps/vfio.hpp"
#include "launcher/systemd/units.hpp"

namespace vmlaunch::launcher::steps {

/// The kernel, or systemd, does not come back from a call. The child that made it is left to
/// itself.
class Stuck : public Failure {
 public:
  explicit Stuck(const std::string& message) : Failure(ExitCode::stuck, message) {}
};

/// The host as steps see and change it. A kernel can hold on to whoever writes an attribute, and to
/// whoever reads one that it shows under a device's lock; so each such call is made by a child of
/// its own with a deadline, which holds no descriptor but the attribute's. Errors are
/// std::system_error, a missed deadline is Stuck. Virtual, so that a test can answer like a kernel
/// on a tree.
class Host {
 public:
  struct Deadlines {
    base::Milliseconds attribute{15000};
    base::Milliseconds driver{60000};   ///< a driver lets go of a device, or takes it up
    base::Milliseconds program{60000};  ///< modprobe
    base::Milliseconds memory{60000};   ///< the kernel finds or moves memory, or writes it to disks
    base::Milliseconds rescan{10000};   ///< a card is found; after a while without power: a second
    base::Milliseconds reset{90000};    ///< of a device, for which the kernel waits 60 s and more
    base::Milliseconds closing{2000};   ///< what a program had open that has ended is closed
    base::Milliseconds kill{10000};     ///< a killed process, whose memory may be large, is gone
    base::Milliseconds systemd{15000};  ///< systemd answers
    base::Milliseconds unit{120000};    ///< a unit stops or starts; its own deadlines are shorter
  };

  Host() : Host("", Deadlines{}) {}
  Host(const std::string& root, const Deadlines& deadlines) : tree_(root), deadlines_(deadlines) {}
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;
  virtual ~Host() = default;

  [[nodiscard]] const Deadlines& deadlines() const { return deadlines_; }

  /// What is being done, for whoever waits for it; goes nowhere until somebody listens.
  void tell(const std::string& text) const {
    if (listener_) {
      listener_(text);
    }
  }
  void on_tell(Tell listener) { listener_ = std::move(listener); }

  /// For all that is shown without waiting.
  [[nodiscard]] const base::Tree& tree() const { return tree_; }

  /// For attributes that the kernel shows under the device's lock (driver_override).
  [[nodiscard]] virtual std::string read_locked(const std::string& path) const;

  /// Writes one value to an attribute.
  virtual void write(const std::string& path, const std::string& value);
  /// Writes to each attribute, whatever becomes of the others: their errors (errno), 0 for none.
  [[nodiscard]] virtual std::vector<int> write_each(
      const std::vector<std::pair<std::string, std::string>>& values);
  /// The same where a driver's remove or probe runs before the write returns.
  virtual void write_to_driver(const std::string& path, const std::string& value);

  /// The same for what the kernel does with memory: huge pages come from that node alone
  /// (set_mempolicy(2)).
  virtual void write_on_node(const std::string& path, const std::string& value, unsigned node);
  /// Waits until what files have in memory is on their disks.
  virtual void sync();

  virtual void make_folder(const std::string& path);
  virtual void remove_folder(const std::string& path);
  /// Network links, as links.hpp says.
  [[nodiscard]] virtual base::UniqueFd make_tap(const std::string& name,
                                                const std::string& bridge,
                                                const std::string& guest_mac);
  [[nodiscard]] virtual base::UniqueFd open_tap(const std::string& name, bool multi_queue);
  virtual void add_macvtap(const std::string& name,
                           const std::string& link,
                           const std::string& mac);
  virtual void remove_link(unsigned index);

  /// Loads a module with what it needs. Throws Failure when modprobe cannot.
  virtual void load_module(const std::string& name);

  /// As in systemd/units.hpp; a bus that is stuck is Stuck.
  [[nodiscard]] virtual systemd::Unit unit(const std::string& name) const;
  virtual void stop_unit(const std::string& name);
  virtual void start_unit(const std::string& name);
  virtual void demand_controllers(const std::string& unit,
                                  unsigned weight,
                                  const base::CpuSet& cpus);

  [[nodiscard]] virtual std::map<std::string, base::CpuSet> allowed_cpus(
      const std::vector<std::string>& units) const;
  virtual void allow_cpus(const std::string& unit, const base::CpuSet& cpus);

  /// Where threads may run, whatever becomes of the others: errors (errno), 0 for none.
  [[nodiscard]] virtual std::vector<int> set_affinity_each(
      const std::vector<std::pair<pid_t, base::CpuSet>>& threads);

  /// A function's configuration space from its beginning, as it answers now; less than 64 bytes
  /// from one that does not.
  [[nodiscard]] virtual std::string read_config(const base::PciAddress& device) const;
  /// By what its reset_method lists, so many methods at most. ENOTTY: by nothing, or in vain.
  virtual void reset(const base::PciAddress& device, std::size_t methods);
  /// The same for all below a bridge.
  virtual void reset_below(const base::PciAddress& bridge);
  /// As vfio.hpp says, of functions that vfio has and nobody has open.
  [[nodiscard]] virtual std::vector<VfioReset> ask_vfio(
      const std::vector<base::PciAddress>& devices) const;
  virtual void hot_reset(const std::vector<base::PciAddress>& devices);
  /// The number of an IOMMU group of theirs that some program has open, which only one can; "" for
  /// none, and for one that may not be opened.
  [[nodiscard]] virtual std::string open_group_of(
      const std::vector<base::PciAddress>& devices) const;
  /// As kernel_log.hpp says.
  [[nodiscard]] virtual KernelLog kernel_log(const std::vector<std::string>& about,
                                             std::uint64_t since) const;

  /// Processes other than ours that have nodes of the device open or mapped.
  [[nodiscard]] virtual std::vector<Holder> holders(const base::PciAddress& device) const;

 private:
  [[nodiscard]] std::string read_bytes(const std::string& path) const;
  void write_within(const std::string& path,
                    const std::string& value,
                    base::Milliseconds limit,
                    std::optional<unsigned> node = std::nullopt) const;
  [[nodiscard]] base::ExitStatus run_program(const std::vector<std::string>& words) const;

  base::Tree tree_;
  Deadlines deadlines_;
  Tell listener_;
};

}  // namespace vmlaunch::launcher::steps
