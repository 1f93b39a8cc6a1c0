#pragma once

#include <string>
#include <vector>

#include "base/process.hpp"
#include "tests/support/program.hpp"

namespace vmlaunch::bench {

/// libvirt's daemons, with a socket of their own, for as long as this lives, below a process that
/// reaps what they leave to the first one: they wait for that.
class Libvirt {
 public:
  /// It is installed, and this is root.
  [[nodiscard]] static bool can_run();

  /// `domain`: a name and its XML. Ends the program if the daemons do not come up.
  Libvirt(std::string name, const std::string& domain);
  Libvirt(const Libvirt&) = delete;
  Libvirt& operator=(const Libvirt&) = delete;
  ~Libvirt();

  /// By virsh, in ms.
  [[nodiscard]] double create();
  [[nodiscard]] double destroy();

  /// The daemons' so far, in ms.
  [[nodiscard]] double processor_time() const;
  /// In MiB.
  [[nodiscard]] double memory() const;

 private:
  [[nodiscard]] double virsh(const std::vector<std::string>& words) const;
  [[nodiscard]] std::vector<pid_t> daemons() const;

  std::string name_;
  tests::Folder folder_;
  std::string domain_;
  base::Child reaper_;
};

}  // namespace vmlaunch::bench
