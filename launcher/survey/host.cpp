#include "launcher/survey/host.hpp"

#include <unistd.h>

namespace vmlaunch::launcher::survey {

Host look_at_host(Reader& reader) {
  Host host;
  host.pci = look_at_pci(reader, Windows::read);
  host.usb = look_at_usb(reader, UsbNames::read);
  host.cpus = look_at_cpus(reader);
  host.memory = look_at_memory(reader);
  host.kernel = look_at_kernel(reader);
  host.kvm = look_at_kvm(reader.tree());
  host.cgroup = look_at_cgroup(reader, ::geteuid() == 0);
  host.unseen = host.pci.unseen;
  host.unseen.insert(host.unseen.end(), reader.unseen().begin(), reader.unseen().end());
  return host;
}

}  // namespace vmlaunch::launcher::survey
