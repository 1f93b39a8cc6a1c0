#include "launcher/steps/taints.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "base/errors.hpp"
#include "base/file.hpp"
#include "base/text.hpp"
#include "launcher/wire.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr const char* kFolder = "/run/vmlaunch/taints";

std::string file_of(const base::PciAddress& device) {
  return std::string(kFolder) + "/" + base::to_string(device);
}

std::string boot_of(const Host& host) {
  return host.tree().read("/proc/sys/kernel/random/boot_id").value_or("");
}

}  // namespace

std::optional<Taint> find_taint(const Host& host, const base::PciAddress& device) {
  const auto text = host.tree().read(file_of(device));
  if (!text) {
    return std::nullopt;
  }
  try {
    const Json json = Json::parse(*text);
    Fields fields(json);
    const std::string boot = fields.text("boot");
    Taint taint{fields.text("vm"), fields.text("fault")};
    fields.finish();
    return boot == boot_of(host) ? std::optional(taint) : std::nullopt;
  } catch (const std::exception&) {
    // Whoever wrote this meant something: it is not taken for "nothing is wrong".
    return Taint{"?", "its record " + file_of(device) + " cannot be read"};
  }
}

void set_taint(const Host& host, const base::PciAddress& device, const Taint& taint) {
  const std::string folder = host.tree().path_of(kFolder);
  if (::mkdir(folder.c_str(), 0755) != 0 && errno != EEXIST) {
    base::throw_errno("make " + folder);
  }
  const std::string path = host.tree().path_of(file_of(device));
  const Json json = {{"boot", boot_of(host)}, {"vm", taint.vm}, {"fault", wire_text(taint.fault)}};
  {
    const base::UniqueFd file =
        base::open_file(path + ".new", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644);
    base::write_all(file.get(), json.dump(), path);
  }
  base::check(std::rename((path + ".new").c_str(), path.c_str()), "write " + path);
}

void clear_taint(const Host& host, const base::PciAddress& device) {
  static_cast<void>(::unlink(host.tree().path_of(file_of(device)).c_str()));
}

std::map<base::PciAddress, Taint> find_taints(const Host& host) {
  std::map<base::PciAddress, Taint> taints;
  for (const std::string& name : host.tree().list(kFolder)) {
    const auto device = base::parse_pci_address(name);
    if (const auto taint = device ? find_taint(host, *device) : std::nullopt) {
      taints.emplace(*device, *taint);
    }
  }
  return taints;
}

std::string describe(const base::PciAddress& device, const Taint& taint) {
  return base::to_string(device) + " did not come back from the guest of the VM " +
         base::printable(taint.vm) + ": " + base::printable(taint.fault) +
         "; power the host off and on (a reboot may not help), or try again: vmlaunch recover " +
         base::shell_quote(taint.vm);
}

}  // namespace vmlaunch::launcher::steps
